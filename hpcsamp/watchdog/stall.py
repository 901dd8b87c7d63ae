"""End a job that has stalled: print an error message, write the stall file, end all ranks."""

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

from hpcsamp.explain import more
from hpcsamp.files import write_whole
from hpcsamp.processes import job
from hpcsamp.watchdog.verdict import Blame
from hpcsamp.watchdog.whereabouts import describe

STALL = "stall.json"
DEFAULT = 600.0
"""Default number of seconds without a sign of life after which a job is ended."""

#: Largest number of seconds for writing the stall file, and for ending the job.
PATIENCE = 10.0

_SIGNS = {
    "stopped": "gives no sign of life",
    "stuck": "is alive but has been idle",
    "waiting": "waits like all other ranks and is the furthest behind,",
}


def line(blame: Sequence[Blame], rows: Sequence[Sequence[int]], places: Sequence[Any]) -> str:
    """Describe the stalled ranks in one line.

    Parameters
    ----------
    rows
        Rows of all ranks, see :mod:`~hpcsamp.watchdog.whereabouts`.
    places
        Host and process id of every rank.
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
    """Return the content of the stall file.

    ``exclude`` lists the hosts that a requeued job should avoid, separated by commas. It is empty
    if all ranks have stalled or all wait for each other, because then the nodes are not the cause.
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


def write(path: Path, record: dict[str, Any]) -> None:
    """Write a stall file; its ``count`` is the number of stalls so far.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    count = 0
    with suppress(OSError, ValueError, KeyError, TypeError):
        count = int(json.loads(path.read_text())["count"])
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps({**record, "count": count + 1}, indent=1) + "\n")


def end(message: str, path: Path, record: dict[str, Any], abort: Any) -> None:
    """Print the message, write the stall file, and end the job. Does not return.

    The cause may be a hanging file system, so each of these has a time limit.
    """

    def report() -> None:
        sys.stderr.write(
            f"hpcsamp: error: {message}; the job is ended, see {path}{more('stall')}\n"
        )
        sys.stderr.flush()
        with suppress(OSError):
            write(path, record)

    for work in (report, abort):
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        thread.join(PATIENCE)
    os._exit(1)
