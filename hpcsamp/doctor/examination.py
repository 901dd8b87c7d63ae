"""Run all checks in turn on every rank, each with a time limit."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hpcsamp.doctor import job, package, parallel, ranks, software, storage
from hpcsamp.doctor.check import PATIENCE, Check, NoAnswerError, bounded, merge, reads, work
from hpcsamp.doctor.ranks import RankPlace

if TYPE_CHECKING:
    from mpi4py import MPI

#: Seconds that a check may take without progress; importing torch may take minutes.
LIMIT = 60.0

#: Names and functions of the checks that each rank runs alone, and of the collective checks.
ALONE: tuple[tuple[str, Callable[[], Check]], ...] = (
    ("Python", software.python),
    ("packages", software.packages),
    ("package", package.whole),
    ("torch", software.torch),
    ("bfloat16", software.bfloat16),
    ("torch_blue", software.torch_blue),
    ("torchvision", software.torchvision),
    ("file system", storage.file_system),
    ("shared memory", storage.shared_memory),
)
TOGETHER: tuple[tuple[str, Callable[[Any], Check]], ...] = (
    ("MPI", parallel.library),
    ("MPI threads", parallel.thread_level),
    ("MPI allreduce", parallel.allreduce),
    ("waiting ranks", parallel.yielding),
    ("Horovod", parallel.horovod),
    ("parallel HDF5", storage.parallel_hdf5),
)


@dataclass
class Diagnosis:
    """Results of all checks.

    Attributes
    ----------
    checks
        One result per check, merged over all ranks.
    places
        Locations of the ranks, in rank order; empty if they could not be determined.
    stuck
        Whether a call never returned: the process must then end without waiting for its threads.
    """

    checks: list[Check] = field(default_factory=list)
    places: list[RankPlace] = field(default_factory=list)
    stuck: bool = False

    @property
    def healthy(self) -> bool:
        """Whether no check has found a problem; there may be warnings."""
        return all(c.status != "problem" for c in self.checks)


def examine(
    comm: MPI.Comm,
    *,
    alone: Sequence[tuple[str, Callable[[], Check]]] = ALONE,
    together: Sequence[tuple[str, Callable[[Any], Check]]] = TOGETHER,
    limit: float = LIMIT,
    model: int = 1,
    say: Callable[[str], None] = lambda name: None,
) -> Diagnosis:
    """Run all checks. Collective; returns the same results on every rank that can be reached.

    Parameters
    ----------
    comm
        Communicator of the ranks.
    alone, together
        Names and functions of the checks of each rank, and of the collective checks.
    limit
        Seconds a check may take, or up to :data:`~hpcsamp.doctor.check.PATIENCE` times that while
        it reads files or, for a check of one rank, computes. After a timeout on any rank the
        remaining collective checks are skipped.
    model
        Size of the model axis of the grid that is reported (``parallel.model``).
    say
        Called with the name of each check before it starts.
    """
    # Checks and results use different communicators: the results of a rank whose check failed must
    # not be matched with messages of the same check on other ranks.
    answers, examined = comm.Dup(), comm.Dup()
    found = Diagnosis()

    def look(name: str, function: Callable[[], Check], joint: bool) -> None:
        say(name)
        try:
            # CPU time is no progress in a collective check: MPI polls while ranks wait in vain.
            result = bounded(function, limit, reads if joint else work)
        except NoAnswerError as e:
            found.stuck = True
            result = Check(name, "problem", str(e), _HANG if joint else _STILL)
        except Exception as e:
            text = " ".join(str(e).split()) or "no message"
            result = Check(name, "problem", f"{type(e).__name__}: {text}", software.SET_UP)
        # Wait for as long as the check may take on the slowest rank.
        results = bounded(lambda: answers.allgather((result, found.stuck)), (PATIENCE + 2) * limit)
        found.stuck = any(stuck for _, stuck in results)
        found.checks.append(merge([check for check, _ in results]))

    def places() -> Check:
        found.places = ranks.here(examined)
        return ranks.cores(found.places)

    try:
        for name, function in alone:
            look(name, function, joint=False)
        collective = [(name, lambda f=f: f(examined)) for name, f in together]
        for name, function in [*collective, ("cores", places)]:
            if found.stuck:
                found.checks.append(
                    Check(name, "problem", "skipped, because an earlier check did not return", "")
                )
            else:
                look(name, function, joint=True)
    except NoAnswerError as e:
        found.stuck = True
        found.checks.append(Check("other ranks", "problem", str(e), _HANG))
    if found.places:
        found.checks.append(ranks.threads(found.places, os.environ))
        found.checks.append(ranks.gpus(found.places))
        found.checks.append(job.allocation(found.places, os.environ))
        found.checks.append(job.grid(found.places, model))
    return found


_STILL = (
    "this check needs no other rank: look for a file system or driver that does not respond "
    "(python -X importtime -c 'import torch' shows where Python waits)"
)
_HANG = "ranks wait for each other: check the network and MPI (try --mca btl self,vader,tcp)"
