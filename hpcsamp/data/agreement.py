"""Agreement between threads of several ranks: one fails, all fail, with the same line.

Like :func:`hpcsamp.grid.together`, but it does not spin while it waits: the cores belong to the
main threads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hpcsamp import errors
from hpcsamp.data.ring import wait
from hpcsamp.errors import HpcsampError
from hpcsamp.serial import library

if TYPE_CHECKING:
    from mpi4py import MPI


def told(error: BaseException) -> tuple[str, str]:
    """Kind and message of an error, for other ranks."""
    if isinstance(error, HpcsampError):
        return type(error).__name__, str(error)
    return "HpcsampError", f"{type(error).__name__}: {error}"


def rebuilt(kind: str, message: str) -> HpcsampError:
    """An error of another rank."""
    found: HpcsampError = getattr(errors, kind)(message)
    return found


def agree(comm: MPI.Comm, error: BaseException | None) -> HpcsampError | None:
    """The error of the lowest rank that has one, on every rank. Collective.

    Costs one integer while all is well.
    """
    MPI = library(comm)  # noqa: N806
    anywhere = np.zeros(1, np.int32)
    flag = np.array([error is not None], np.int32)
    request = comm.Iallreduce(flag, anywhere, op=MPI.MAX)
    wait(lambda: bool(request.Test()))
    if not anywhere[0]:
        return None
    everyone = comm.allgather(None if error is None else told(error))
    return rebuilt(*next(t for t in everyone if t is not None))
