"""MPI for one process in pure Python: the part of mpi4py's interface that this package uses.

Modules call :func:`library` with their communicator instead of importing mpi4py, so that code for
many ranks also runs in one process without MPI.
"""

from __future__ import annotations

import os
import platform
import sys
from typing import Any

IN_PLACE: Any = object()
UNDEFINED = -32766
COMM_TYPE_SHARED = 0
THREAD_SINGLE, THREAD_FUNNELED, THREAD_SERIALIZED, THREAD_MULTIPLE = range(4)
#: Every reduction over one process returns its input.
SUM, MIN, MAX, LAND, LOR, MINLOC, MAXLOC = "SUM", "MIN", "MAX", "LAND", "LOR", "MINLOC", "MAXLOC"


class Request:
    """A request that is complete from the start."""

    def Test(self) -> bool:  # noqa: N802
        """Whether the request is complete: always."""
        return True

    def Wait(self) -> bool:  # noqa: N802
        """Return at once."""
        return True


class Comm:
    """A communicator of one process, with methods of ``mpi4py.MPI.Comm``.

    Methods that need another rank, such as sending messages, are missing.
    """

    rank, size = 0, 1

    def Get_rank(self) -> int:  # noqa: N802
        """Return 0."""
        return 0

    def Get_size(self) -> int:  # noqa: N802
        """Return 1."""
        return 1

    def Dup(self) -> Comm:  # noqa: N802
        """Return a new communicator."""
        return Comm()

    def Split(self, color: int = 0, key: int = 0) -> Comm | None:  # noqa: N802
        """Return a new communicator, or None for :data:`UNDEFINED`."""
        return None if color == UNDEFINED else Comm()

    def Split_type(self, split_type: int, key: int = 0) -> Comm:  # noqa: N802
        """Return a new communicator."""
        return Comm()

    def Free(self) -> None:  # noqa: N802
        """Do nothing: there are no resources to free."""

    def Barrier(self) -> None:  # noqa: N802
        """Return at once."""

    def Ibarrier(self) -> Request:  # noqa: N802
        """Return a complete request."""
        return Request()

    def Iprobe(self, *_: Any) -> bool:  # noqa: N802
        """Return False: there is no other rank to send a message."""
        return False

    def Abort(self, errorcode: int = 1) -> None:  # noqa: N802
        """End this process with an exit code."""
        os._exit(errorcode)

    def bcast(self, obj: Any, root: int = 0) -> Any:
        """Return the object."""
        return obj

    def gather(self, obj: Any, root: int = 0) -> list[Any]:
        """Return a list of the object."""
        return [obj]

    def allgather(self, obj: Any) -> list[Any]:
        """Return a list of the object."""
        return [obj]

    def allreduce(self, obj: Any, op: Any = SUM) -> Any:
        """Return the object."""
        return obj

    def Bcast(self, buffer: Any, root: int = 0) -> None:  # noqa: N802
        """Leave the buffer unchanged."""

    def Allreduce(self, send: Any, receive: Any, op: Any = SUM) -> None:  # noqa: N802
        """Copy ``send`` to ``receive``, unless the call is in place."""
        _copy(send, receive)

    def Iallreduce(self, send: Any, receive: Any, op: Any = SUM) -> Request:  # noqa: N802
        """Copy ``send`` to ``receive``, unless the call is in place."""
        _copy(send, receive)
        return Request()

    def Allgatherv(self, send: Any, receive: Any) -> None:  # noqa: N802
        """Copy ``send`` to ``receive``, unless the call is in place."""
        _copy(send, receive)

    def Reduce_scatter(  # noqa: N802
        self, send: Any, receive: Any, recvcounts: Any = None, op: Any = SUM
    ) -> None:
        """Copy ``send`` to ``receive``, unless the call is in place."""
        _copy(send, receive)


def _copy(send: Any, receive: Any) -> None:
    """Copy ``send`` to ``receive``, an array or a tuple of an array and counts."""
    if send is not IN_PLACE:
        into = receive[0] if isinstance(receive, tuple | list) else receive
        into.reshape(-1)[:] = send.reshape(-1)


COMM_WORLD: Any = Comm()
COMM_SELF: Any = COMM_WORLD


def Is_initialized() -> bool:  # noqa: N802
    """Return True: there is nothing to initialise."""
    return True


def Is_finalized() -> bool:  # noqa: N802
    """Return False: there is nothing to finalise."""
    return False


def Query_thread() -> int:  # noqa: N802
    """Return ``THREAD_MULTIPLE``: any thread may call this module."""
    return THREAD_MULTIPLE


def Get_processor_name() -> str:  # noqa: N802
    """Return the host name."""
    return platform.node()


def Get_library_version() -> str:  # noqa: N802
    """Return the description of the MPI library that is written to records."""
    return "none: one process without MPI"


def Get_version() -> tuple[int, int]:  # noqa: N802
    """Return the version of the MPI standard: none, (0, 0)."""
    return 0, 0


def get_vendor() -> tuple[str, tuple[int, int, int]]:
    """Return the name and version of the MPI library: none."""
    return "none", (0, 0, 0)


def library(comm: Any) -> Any:
    """Return the MPI module of a communicator: this module, or ``mpi4py.MPI``."""
    if isinstance(comm, Comm):
        return sys.modules[__name__]
    from mpi4py import MPI

    return MPI


def running() -> Any:
    """Return ``mpi4py.MPI`` while it is initialised in this process, else this module."""
    MPI = sys.modules.get("mpi4py.MPI")  # noqa: N806
    alive = MPI is not None and MPI.Is_initialized() and not MPI.Is_finalized()
    return MPI if alive else sys.modules[__name__]


def whole_job(comm: Any) -> bool:
    """Whether a communicator holds all ranks of the job."""
    size: int = running().COMM_WORLD.Get_size()
    return bool(comm.Get_size() == size)
