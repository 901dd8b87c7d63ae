"""The examination: every check in turn, on every rank, none of them longer than it may."""

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

#: Seconds that a check may take, or that it may do nothing: importing torch may take minutes.
LIMIT = 60.0

#: Name and function of what each rank does alone, and of what all do together.
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
    """What was found.

    Attributes
    ----------
    checks
        One per thing looked at, over all ranks.
    places
        Where the ranks run, in order; empty if that could not be found out.
    stuck
        Whether a call never came back: the process must then end without waiting for its threads.
    """

    checks: list[Check] = field(default_factory=list)
    places: list[RankPlace] = field(default_factory=list)
    stuck: bool = False

    @property
    def healthy(self) -> bool:
        """No problem was found; warnings may have been."""
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
    """Look at everything. Collective; the same answer on every rank, unless they are cut off.

    Parameters
    ----------
    comm
        The ranks.
    alone, together
        What to look at: names and functions.
    limit
        Seconds a check may take; while it still reads files, or computes alone, up to
        :data:`~hpcsamp.doctor.check.PATIENCE` times that. Once one took longer on any rank, nothing
        that needs the other ranks is tried any more.
    model
        Size of the model axis of the grid that is told (``parallel.model``).
    say
        Told the name of each check before it begins.
    """
    # One communicator to check with, and one for the answers: a rank that failed must not meet the
    # others within the check.
    answers, examined = comm.Dup(), comm.Dup()
    found = Diagnosis()

    def look(name: str, function: Callable[[], Check], joint: bool) -> None:
        say(name)
        try:
            # Ranks that wait for each other in vain compute: MPI polls.
            mine = bounded(function, limit, reads if joint else work)
        except NoAnswerError as e:
            found.stuck = True
            mine = Check(name, "problem", str(e), _HANG if joint else _STILL)
        except Exception as e:
            text = " ".join(str(e).split()) or "no message"
            mine = Check(name, "problem", f"{type(e).__name__}: {text}", software.SET_UP)
        # Another rank may take as long as it may longer.
        told = bounded(lambda: answers.allgather((mine, found.stuck)), (PATIENCE + 2) * limit)
        found.stuck = any(stuck for _, stuck in told)
        found.checks.append(merge([check for check, _ in told]))

    def places() -> Check:
        found.places = ranks.here(examined)
        return ranks.cores(found.places)

    try:
        for name, function in alone:
            look(name, function, joint=False)
        collective = [(name, lambda f=f: f(examined)) for name, f in together]
        for name, function in [*collective, ("cores", places)]:
            if found.stuck:
                found.checks.append(Check(name, "problem", "not tried after that", ""))
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
    "this needs no other rank: look for a file system or driver that does not answer "
    "(python -X importtime -c 'import torch' shows where Python waits)"
)
_HANG = "ranks wait for each other: check network and MPI (try --mca btl self,vader,tcp)"
