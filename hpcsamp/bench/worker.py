"""A job of :mod:`hpcsamp.bench.turns`: ``python -m hpcsamp.bench.worker VARIANT-AS-JSON``.

Rank 0 reads a word from its standard input, all ranks do what it says, and rank 0 answers in one
line: ``round`` (some steps, timed), ``watch`` (some steps, timed by phase), ``end``. The others
sleep until rank 0 has read something.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from hpcsamp.bench.turns import MARK
from hpcsamp.processes import peak_rss_mb

if TYPE_CHECKING:
    from mpi4py import MPI


def serve(comm: MPI.Comm, runner: Any, about: dict[str, Any]) -> None:
    """Take turns until told to end. Collective.

    Parameters
    ----------
    runner
        Has ``round()`` and ``watch()``, for all ranks; the answers of rank 0 count.
    about
        What to say before the first turn.
    """
    pids = comm.gather(os.getpid())
    _say(comm, {**about, "pids": pids})
    while (word := _word(comm)) != "end":
        _say(comm, runner.round() if word == "round" else runner.watch())
    told = {"cores": sorted(os.sched_getaffinity(0)), "peak_rss_mb": comm.gather(peak_rss_mb())}
    _say(comm, {**runner.about(), **told})


def _word(comm: MPI.Comm) -> str:
    from hpcsamp.bench.step import wait_for

    word = (sys.stdin.readline().strip() or "end") if comm.rank == 0 else ""
    wait_for(comm.Ibarrier())
    told: str = comm.bcast(word)
    return told


def _say(comm: MPI.Comm, told: dict[str, Any]) -> None:
    if comm.rank == 0:
        sys.stdout.write(f"{MARK}{json.dumps(told)}\n")
        sys.stdout.flush()


def main(text: str) -> None:
    """Build the variant on all ranks and serve."""
    from hpcsamp.bench.variants import Variant, runner_of
    from hpcsamp.runtime import mpi

    variant = Variant(**json.loads(text))
    with ExitStack() as stack:
        runner = runner_of(variant, stack)
        serve(mpi().COMM_WORLD, runner, runner.about())


if __name__ == "__main__":
    from hpcsamp.runtime import end_job

    try:
        main(sys.argv[1])
    except Exception as e:
        sys.exit(end_job(e))
