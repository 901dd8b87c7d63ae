"""Shared memory of the ranks of a node: an MPI shared-memory window as an array of bytes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from mpi4py import MPI

PAGE = 4096
SHARED_MEMORY = "/dev/shm"
"""The file system in which MPI implementations on Linux create shared windows."""


def shared_memory_free() -> int:
    """Return the free bytes of shared memory on this node; using more causes a bus error."""
    try:
        status = os.statvfs(SHARED_MEMORY)
    except OSError:
        return 2**62  # not Linux: the allocation of the window will fail if memory is short
    return status.f_bavail * status.f_frsize


class Window:
    """Memory that all ranks of ``comm`` share; a single rank uses private memory. Collective.

    Parameters
    ----------
    comm
        The ranks, all on one node.
    size
        Number of bytes, the same on all ranks.

    Attributes
    ----------
    memory
        uint8 of shape ``(size,)``, not initialised. It starts at a page boundary, so that a GPU
        driver can pin it.
    """

    def __init__(self, comm: MPI.Comm, size: int) -> None:
        self._window: MPI.Win | None = None
        total = size + PAGE  # a window may start anywhere within a page
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
        """Memory barrier; call it after writing, before notifying others, and when notified."""
        if self._window is not None:
            self._window.Sync()

    def free(self) -> None:
        """Free the memory; collective."""
        if self._window is not None:
            self._window.Unlock_all()
            self._window.Free()
            self._window = None
