"""Exchange the rows of all ranks, through shared memory within a node and messages between nodes.

At each tick a rank sends its table to one rank of another node, in turn; newer rows replace older
ones. So all ranks know the rows of all others after a few ticks, for any number of ranks. Nothing
waits for a stopped rank: no message is sent to a rank that has not received the previous one.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hpcsamp.serial import library
from hpcsamp.watchdog.whereabouts import BEAT, COLUMNS

if TYPE_CHECKING:
    from mpi4py import MPI

FOLDER = Path("/dev/shm")
ROW = 8 * COLUMNS


class RankTable:
    """The rows of all ranks, as far as this rank knows them. The constructor is collective.

    Parameters
    ----------
    comm
        The ranks; this communicator must not be used for anything else.
    messages
        Whether a thread may send messages. If not, a rank receives only the rows of its node.

    Attributes
    ----------
    rows
        int64 of shape ``(ranks, COLUMNS)``.
    known
        The ranks whose rows can be known.
    mine
        This rank's row, in the shared memory of its node.
    """

    def __init__(self, comm: MPI.Comm, messages: bool) -> None:
        mpi = library(comm)
        self._comm, self._rank = comm, comm.Get_rank()
        node = comm.Split_type(mpi.COMM_TYPE_SHARED, key=self._rank)
        self._map = _shared(node)
        self._near = node.allgather(self._rank) if self._map is not None else [self._rank]
        node.Free()
        if self._map is None:
            self._map = mmap.mmap(-1, ROW)
        self._node = np.frombuffer(self._map, np.int64).reshape(-1, COLUMNS)
        self.rows = np.zeros((comm.Get_size(), COLUMNS), np.int64)
        place = self._near.index(self._rank)
        self.mine = memoryview(self._map)[place * ROW : (place + 1) * ROW].cast("q")
        near = set(self._near)
        self._far = [r for r in range(comm.Get_size()) if r not in near] if messages else []
        self.known = sorted(near | set(self._far))
        self._turn = self._rank
        self._sent: dict[int, tuple[MPI.Request, np.ndarray]] = {}
        self._heard = np.empty_like(self.rows)

    def exchange(self) -> None:
        """Update the rows from shared memory and messages, and send them to one rank."""
        self.rows[self._near] = self._node
        self.receive()
        self._sent = {r: s for r, s in self._sent.items() if not s[0].Test()}
        if self._far:
            self._turn = (self._turn + 1) % len(self._far)
            peer = self._far[self._turn]
            if peer not in self._sent:
                message = self.rows.copy()
                self._sent[peer] = self._comm.Issend(message, peer), message

    def receive(self) -> None:
        """Receive the messages that have arrived."""
        while self._far and self._comm.Iprobe():
            self._comm.Recv(self._heard)
            newer = self._heard[:, BEAT] > self.rows[:, BEAT]
            self.rows[newer] = self._heard[newer]

    def settle(self) -> bool:
        """Wait for all messages to arrive at the end; call it until it returns True. Collective.

        Uses the non-blocking barrier of Hoefler, Siebert and Lumsdaine (2010): a rank enters it
        when its own messages have arrived, and leaves it when those of all ranks have.
        """
        self.receive()
        if self._barrier is None and all(s[0].Test() for s in self._sent.values()):
            self._sent.clear()
            self._barrier = self._comm.Ibarrier()
        return self._barrier is not None and self._barrier.Test()

    _barrier: MPI.Request | None = None

    def close(self) -> None:
        """Release the shared memory."""
        self.mine.release()
        del self._node
        assert self._map is not None
        with suppress(BufferError):
            self._map.close()


def _shared(node: MPI.Comm) -> mmap.mmap | None:
    """Allocate shared memory for the rows of a node; None if that is impossible. Collective."""
    MPI = library(node)  # noqa: N806
    name, memory = "", None
    size = node.Get_size() * ROW
    if node.Get_rank() == 0:
        with suppress(OSError):
            folder = FOLDER if os.access(FOLDER, os.W_OK) else None
            file, name = tempfile.mkstemp(prefix="hpcsamp-", dir=folder)
            os.ftruncate(file, size)
            os.close(file)
    name = node.bcast(name)
    with suppress(OSError, ValueError), open(name, "r+b") as f:
        memory = mmap.mmap(f.fileno(), size)
    everyone = node.allreduce(memory is not None, op=MPI.LAND)
    if name and node.Get_rank() == 0:
        with suppress(OSError):
            Path(name).unlink()
    return memory if everyone else None
