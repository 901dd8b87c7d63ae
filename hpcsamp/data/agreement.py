"""Raise an error of one rank's prefetch thread on all ranks, with the same message.

Like :func:`hpcsamp.grid.together`, but without spinning while it waits: the main threads need the
cores.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hpcsamp import errors
from hpcsamp.errors import HpcsampError
from hpcsamp.grid.polling import wait
from hpcsamp.serial import library

if TYPE_CHECKING:
    from mpi4py import MPI


def described(error: BaseException) -> tuple[str, str]:
    """Class name and message of an error, to be sent to other ranks."""
    if isinstance(error, HpcsampError):
        return type(error).__name__, str(error)
    return "HpcsampError", f"{type(error).__name__}: {error}"


def rebuilt(kind: str, message: str) -> HpcsampError:
    """Recreate an error from another rank by its class name and message."""
    error: HpcsampError = getattr(errors, kind)(message)
    return error


def agree(comm: MPI.Comm, error: BaseException | None) -> HpcsampError | None:
    """Return the error of the lowest rank that has one, on every rank; None if there is no error.

    Collective. Exchanges a single integer if there is no error.
    """
    MPI = library(comm)  # noqa: N806
    anywhere = np.zeros(1, np.int32)
    flag = np.array([error is not None], np.int32)
    request = comm.Iallreduce(flag, anywhere, op=MPI.MAX)
    wait(lambda: bool(request.Test()))
    if not anywhere[0]:
        return None
    everyone = comm.allgather(None if error is None else described(error))
    return rebuilt(*next(t for t in everyone if t is not None))
