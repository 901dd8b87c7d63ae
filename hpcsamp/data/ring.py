"""Ring buffer of batches in shared memory; the ranks of a group on a node fill each slot together.

Every rank has counters in the same MPI shared-memory window. A rank that has written its part of
batch ``n`` into slot ``n % slots`` increments its ``FILLED``; the batch is complete once all ranks
have done so, and the slot is free again once all have incremented ``TAKEN``. A rank writes only its
own counters, so neither locks nor messages are needed: ``Win.Sync`` orders memory before a counter
is incremented and after it was read.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hpcsamp.errors import UsageError
from hpcsamp.grid.window import PAGE, SHARED_MEMORY, Window, shared_memory_free
from hpcsamp.serial import library, whole_job

if TYPE_CHECKING:
    from mpi4py import MPI

FILLED, TAKEN, JOB, EPOCH, START, PUBLISHED, FAULT, CLOSED = range(8)
"""Rows of the counters; each has one int64 per rank."""

TEXT_BYTES = 1024
"""Number of bytes reserved for the error of a rank."""


@dataclass(frozen=True)
class Room:
    """Shared memory that the rings of a node need, and the memory that is free.

    Attributes
    ----------
    slots
        Number of slots of each ring that fit into shared memory.
    needed
        Bytes of shared memory that the rings of this node need with these slots.
    free
        Free bytes before the rings are allocated.
    """

    slots: int
    needed: int
    free: int


def fit(node_comm: MPI.Comm, world: MPI.Comm, slot_bytes: int, slots: int, leads: bool) -> Room:
    """Compute how many slots the rings of the job can have. Collective.

    Parameters
    ----------
    node_comm, world
        Ranks of the node and of the job.
    slot_bytes
        Size of a slot of this rank's ring in bytes.
    slots
        Requested number of slots.
    leads
        Whether this rank allocates a ring in shared memory for its group.

    Raises
    ------
    UsageError
        On every rank, if a node has no room for two slots.
    """
    MPI = library(world)  # noqa: N806
    each = node_comm.allreduce(slot_bytes if leads else 0)
    free = node_comm.bcast(shared_memory_free())
    fits = slots if each * slots <= free * 0.95 else int(free * 0.95 // each)
    fewest, _ = world.allreduce((fits, world.Get_rank()), op=MPI.MINLOC)
    if fewest < 2:
        message = None
        if fits == fewest:
            message = (
                f"{SHARED_MEMORY} on {MPI.Get_processor_name()} has {free / 1e6:,.1f} MB free, but "
                f"two batches of its sample groups need {2 * each / 1e6:,.1f} MB; "
                f"choose a smaller data.batch or mount a larger {SHARED_MEMORY}"
            )
        error = UsageError(next(m for m in world.allgather(message) if m))
        error.agreed = whole_job(world)
        raise error
    return Room(fewest, each * fewest, free)


class Ring:
    """Slots, counters and marks that the ranks of ``comm`` (all on one node) share. Collective.

    Parameters
    ----------
    comm
        The ranks; a ring of one rank uses private memory.
    slot_bytes
        Size of a slot in bytes.
    slots
        Number of slots.
    marks
        Number of one-byte marks, one for each chunk: whether the chunk was verified.
    """

    def __init__(self, comm: MPI.Comm, slot_bytes: int, slots: int, marks: int):
        self.comm, self.slots = comm, slots
        self.size, self.rank = comm.Get_size(), comm.Get_rank()
        self.slot_bytes = -(-slot_bytes // PAGE) * PAGE
        rows = self.size * 64
        texts = self.size * TEXT_BYTES
        head = -(-(rows + texts + marks) // PAGE) * PAGE
        self._window = Window(comm, head + slots * self.slot_bytes)
        raw = self._window.memory
        self.counters = raw[:rows].view(np.int64).reshape(8, self.size)
        self._rows = [row.data for row in self.counters]  # faster to read than arrays
        self._texts = raw[rows : rows + texts].reshape(self.size, TEXT_BYTES)
        self.marks = raw[rows + texts : rows + texts + marks]
        self.memory = raw[head:]
        if self.rank == 0:
            raw[:head] = 0
        self.sync()
        comm.Barrier()
        self.sync()

    def sync(self) -> None:
        """Memory barrier, before incrementing a counter and after reading an incremented one."""
        self._window.sync()

    def slot(self, number: int) -> np.ndarray:
        """The slot of batch ``number``: uint8 of shape ``(slot_bytes,)``."""
        begin = number % self.slots * self.slot_bytes
        return self.memory[begin : begin + self.slot_bytes]

    def post(self, row: int, value: int) -> None:
        """Set one of this rank's counters, after all earlier writes have become visible."""
        self.sync()
        self._rows[row][self.rank] = value
        self.sync()

    def least(self, row: int) -> int:
        """The smallest value of a counter over all ranks."""
        return min(self._rows[row])

    def fail(self, number: int, error: tuple[str, str]) -> None:
        """Report that reading batch ``number`` failed, with the kind and message of the error."""
        kind, message = error
        raw = json.dumps([kind, message])
        while len(raw.encode()) > TEXT_BYTES:
            message = message[: len(message) - 64] + "..."
            raw = json.dumps([kind, message])
        text = self._texts[self.rank]
        text[:] = 0
        text[: len(raw.encode())] = np.frombuffer(raw.encode(), np.uint8)
        self.post(FAULT, number + 1)

    def fault(self, number: int, rank: int) -> tuple[str, str] | None:
        """Kind and message of a rank's error at batch ``number`` or before; None if it has none."""
        failed = int(self.counters[FAULT, rank])
        if not 0 < failed <= number + 1:
            return None
        self.sync()
        kind, message = json.loads(self._texts[rank].tobytes().rstrip(b"\0").decode())
        return kind, message

    def free(self) -> None:
        """Free the memory; collective over the ring."""
        self._window.free()
