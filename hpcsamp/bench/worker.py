"""A job of :mod:`hpcsamp.bench.turns`: ``python -m hpcsamp.bench.worker VARIANT-AS-JSON``.

Rank 0 reads a command from its standard input, all ranks execute it, and rank 0 answers in one
line: ``round`` (time some steps), ``watch`` (time some steps by phase), ``end``. The other ranks
sleep until rank 0 has read a command.
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
    """Execute commands until ``end``. Collective.

    Parameters
    ----------
    runner
        Object with ``round()`` and ``watch()``, called on all ranks; rank 0's results are sent.
    about
        Answer that is sent before the first command.
    """
    pids = comm.gather(os.getpid())
    _say(comm, {**about, "pids": pids})
    while (word := _word(comm)) != "end":
        _say(comm, runner.round() if word == "round" else runner.watch())
    told = {
        "cores": sorted(os.sched_getaffinity(0)),
        "peak_rss_mb": comm.gather(peak_rss_mb()),
        "peak_gpu_mb": comm.gather(_peak_gpu_mb()),
    }
    _say(comm, {**runner.about(), **told})


def _peak_gpu_mb() -> float:
    """Peak of what torch allocated on the GPU of this process, in MiB; 0 if it used none."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return 0.0
    return float(torch.cuda.max_memory_allocated() / 2**20)


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
    """Build the variant on all ranks and execute commands."""
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
