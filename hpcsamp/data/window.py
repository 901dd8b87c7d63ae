"""Memory that the ranks of a node share: an MPI shared-memory window, seen as bytes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from mpi4py import MPI

PAGE = 4096
SHARED_MEMORY = "/dev/shm"
"""Where MPI implementations on Linux put shared windows."""


def shared_memory_free() -> int:
    """Free bytes of shared memory on this node; a write beyond them would be a bus error."""
    try:
        found = os.statvfs(SHARED_MEMORY)
    except OSError:
        return 2**62  # not Linux: the window's own allocation will tell
    return found.f_bavail * found.f_frsize


class Window:
    """Bytes that all ranks of ``comm`` see; a single rank has them to itself.

    Parameters
    ----------
    comm
        The ranks, all on one node. Collective.
    size
        Bytes, the same on all ranks.

    Attributes
    ----------
    memory
        uint8 of shape ``(size,)``, from the beginning of a page: what a GPU driver pins. Not
        initialised.
    """

    def __init__(self, comm: MPI.Comm, size: int) -> None:
        self._window: MPI.Win | None = None
        total = size + PAGE  # a window begins anywhere
        if comm.Get_size() == 1:
            raw = np.empty(total, np.uint8)
        else:
            from mpi4py import MPI

            own = total if comm.Get_rank() == 0 else 0
            self._window = MPI.Win.Allocate_shared(own, 1, comm=comm)  # type: ignore[arg-type]
            self._window.Lock_all(MPI.MODE_NOCHECK)
            held, _ = self._window.Shared_query(0)
            raw = np.frombuffer(held, np.uint8)  # type: ignore[call-overload]
        start = -raw.__array_interface__["data"][0] % PAGE
        self.memory = raw[start : start + size]

    def sync(self) -> None:
        """Order memory: after writing, before others are told; and after one was told."""
        if self._window is not None:
            self._window.Sync()

    def free(self) -> None:
        """Give the memory back; collective."""
        if self._window is not None:
            self._window.Unlock_all()
            self._window.Free()
            self._window = None
