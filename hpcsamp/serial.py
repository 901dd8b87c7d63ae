"""MPI of one process, in pure Python: the part of mpi4py's interface that this package uses.

Rooms ask :func:`library` for the MPI of the communicator in their hands instead of importing
mpi4py, so what works on many ranks works without MPI on one.
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
#: Reductions over one process are what it has, whichever they are.
SUM, MIN, MAX, LAND, LOR, MINLOC, MAXLOC = "SUM", "MIN", "MAX", "LAND", "LOR", "MINLOC", "MAXLOC"


class Request:
    """An exchange that is over when it begins."""

    def Test(self) -> bool:  # noqa: N802
        """Whether it is over."""
        return True

    def Wait(self) -> bool:  # noqa: N802
        """Wait for its end."""
        return True


class Comm:
    """A communicator of one process; methods are those of ``mpi4py.MPI.Comm``.

    What one process has no use for (messages to another rank) is not there.
    """

    rank, size = 0, 1

    def Get_rank(self) -> int:  # noqa: N802
        """0."""
        return 0

    def Get_size(self) -> int:  # noqa: N802
        """1."""
        return 1

    def Dup(self) -> Comm:  # noqa: N802
        """Another one."""
        return Comm()

    def Split(self, color: int = 0, key: int = 0) -> Comm | None:  # noqa: N802
        """Another one; None for :data:`UNDEFINED`."""
        return None if color == UNDEFINED else Comm()

    def Split_type(self, split_type: int, key: int = 0) -> Comm:  # noqa: N802
        """Another one."""
        return Comm()

    def Free(self) -> None:  # noqa: N802
        """Nothing is held."""

    def Barrier(self) -> None:  # noqa: N802
        """Nobody is waited for."""

    def Ibarrier(self) -> Request:  # noqa: N802
        """Nobody is waited for."""
        return Request()

    def Iprobe(self, *_: Any) -> bool:  # noqa: N802
        """Nobody sends."""
        return False

    def Abort(self, errorcode: int = 1) -> None:  # noqa: N802
        """End this process."""
        os._exit(errorcode)

    def bcast(self, obj: Any, root: int = 0) -> Any:
        """The object."""
        return obj

    def gather(self, obj: Any, root: int = 0) -> list[Any]:
        """The object, in a list."""
        return [obj]

    def allgather(self, obj: Any) -> list[Any]:
        """The object, in a list."""
        return [obj]

    def allreduce(self, obj: Any, op: Any = SUM) -> Any:
        """The object."""
        return obj

    def Bcast(self, buffer: Any, root: int = 0) -> None:  # noqa: N802
        """The buffer stays as it is."""

    def Allreduce(self, send: Any, receive: Any, op: Any = SUM) -> None:  # noqa: N802
        """Copy, unless it is in place."""
        _copy(send, receive)

    def Iallreduce(self, send: Any, receive: Any, op: Any = SUM) -> Request:  # noqa: N802
        """Copy, unless it is in place."""
        _copy(send, receive)
        return Request()

    def Allgatherv(self, send: Any, receive: Any) -> None:  # noqa: N802
        """Copy, unless it is in place."""
        _copy(send, receive)

    def Reduce_scatter(  # noqa: N802
        self, send: Any, receive: Any, recvcounts: Any = None, op: Any = SUM
    ) -> None:
        """Copy, unless it is in place."""
        _copy(send, receive)


def _copy(send: Any, receive: Any) -> None:
    """``receive`` is an array, or one in a tuple with counts."""
    if send is not IN_PLACE:
        into = receive[0] if isinstance(receive, tuple | list) else receive
        into.reshape(-1)[:] = send.reshape(-1)


COMM_WORLD: Any = Comm()
COMM_SELF: Any = COMM_WORLD


def Is_initialized() -> bool:  # noqa: N802
    """There is nothing to initialise."""
    return True


def Is_finalized() -> bool:  # noqa: N802
    """There is nothing to finalise."""
    return False


def Query_thread() -> int:  # noqa: N802
    """Threads never meet another process."""
    return THREAD_MULTIPLE


def Get_processor_name() -> str:  # noqa: N802
    """Name of the host."""
    return platform.node()


def Get_library_version() -> str:  # noqa: N802
    """For records."""
    return "none: one process without MPI"


def Get_version() -> tuple[int, int]:  # noqa: N802
    """Of no standard."""
    return 0, 0


def get_vendor() -> tuple[str, tuple[int, int, int]]:
    """Of nobody."""
    return "none", (0, 0, 0)


def library(comm: Any) -> Any:
    """The MPI that a communicator is of: this module, or ``mpi4py.MPI``."""
    if isinstance(comm, Comm):
        return sys.modules[__name__]
    from mpi4py import MPI

    return MPI


def running() -> Any:
    """``mpi4py.MPI`` while it runs in this process, else this module."""
    MPI = sys.modules.get("mpi4py.MPI")  # noqa: N806
    alive = MPI is not None and MPI.Is_initialized() and not MPI.Is_finalized()
    return MPI if alive else sys.modules[__name__]


def whole_job(comm: Any) -> bool:
    """Whether the ranks of a communicator are all of the job."""
    size: int = running().COMM_WORLD.Get_size()
    return bool(comm.Get_size() == size)
