"""What becomes of a job that stalls: a line, a stall file, and the end of all ranks."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from hpcsamp.files import write_whole
from hpcsamp.processes import job
from hpcsamp.watchdog.verdict import Blame
from hpcsamp.watchdog.whereabouts import describe

STALL = "stall.json"
DEFAULT = 600.0
"""Seconds without a sign of life after which a job is ended, unless told."""

#: Seconds for which the stall file may take to be written, and the job to end.
PATIENCE = 10.0

_SIGNS = {
    "stopped": "gives no sign of life",
    "stuck": "lives but does nothing",
    "waiting": "waits like all others, and has come least far,",
}


def line(blame: Sequence[Blame], rows: Sequence[Sequence[int]], places: Sequence[Any]) -> str:
    """One line for people.

    Parameters
    ----------
    rows
        Of all ranks, see :mod:`~hpcsamp.watchdog.whereabouts`.
    places
        Host and pid of every rank.
    """
    shown = [
        f"rank {b.rank} (process {places[b.rank][1]} on {places[b.rank][0]}) {_SIGNS[b.kind]} for "
        f"{b.seconds:.0f} s, last seen in {describe(rows[b.rank])}"
        for b in blame[:4]
    ]
    more = f"; and {len(blame) - 4} more ranks" if len(blame) > 4 else ""
    return "; ".join(shown) + more


def record(
    blame: Sequence[Blame], rows: Sequence[Sequence[int]], places: Sequence[Any], limit: float
) -> dict[str, Any]:
    """What the stall file says.

    ``exclude`` names, with commas, the hosts that a requeued job should avoid: none if all ranks
    are to blame or none in particular, because then it is not the nodes.
    """
    hosts = sorted({places[b.rank][0] for b in blame})
    anybody = len(blame) == len(rows) or any(b.kind == "waiting" for b in blame)
    number, restart = job(os.environ)
    return {
        "when": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "job": number,
        "restart": restart,
        "limit": limit,
        "ranks": [
            {
                "rank": b.rank,
                "host": places[b.rank][0],
                "pid": places[b.rank][1],
                "kind": b.kind,
                "seconds": round(b.seconds, 1),
                "last_seen": describe(rows[b.rank]),
            }
            for b in blame
        ],
        "hosts": hosts,
        "exclude": "" if anybody else ",".join(hosts),
    }


def write(path: Path, told: dict[str, Any]) -> None:
    """Write a stall file; ``count`` in it is how often this has happened there.

    Raises
    ------
    OSError
        If that cannot be done.
    """
    count = 0
    with suppress(OSError, ValueError, KeyError, TypeError):
        count = int(json.loads(path.read_text())["count"])
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps({**told, "count": count + 1}, indent=1) + "\n")


def end(message: str, path: Path, told: dict[str, Any], abort: Any) -> None:
    """Say what has happened, write it down, and end the job. Does not return.

    A file system that hangs may be why: nothing here waits for it for long.
    """

    def tell() -> None:
        sys.stderr.write(f"hpcsamp: error: {message}; the job is ended, see {path}\n")
        sys.stderr.flush()
        with suppress(OSError):
            write(path, told)

    for work in (tell, abort):
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        thread.join(PATIENCE)
    os._exit(1)
