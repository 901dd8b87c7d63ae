"""Messages between the ranks of a node through shared memory.

Every rank has slots of its own in a shared window. In exchange ``n`` it writes its messages to slot
``n % SLOTS`` and then the number, position and length of each message to the header for its
receiver, which reads the slot in place. Nothing is packed, copied twice or delayed within MPI: a
product is computed where others read it, and the reader computes with it in place.

A slot is overwritten only after all ranks have closed the previous exchange. No rank writes to the
headers or counters of another; ``Win.Sync`` orders memory before a header is written and after it
was read.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

import numpy as np
import torch
from torch import Tensor

from hpcsamp.errors import HpcsampError
from hpcsamp.explain import more
from hpcsamp.grid.polling import wait
from hpcsamp.grid.window import PAGE, SHARED_MEMORY, Window, shared_memory_free
from hpcsamp.serial import library
from hpcsamp.watchdog import Doing, here

if TYPE_CHECKING:
    from mpi4py import MPI

SLOTS = 3
"""Number of slots of a rank: for two open exchanges, and one that other ranks may still read."""

MESSAGES = 2
"""Largest number of messages from one rank to another in an exchange."""

LINE = 64
"""Alignment of messages in bytes."""

RESERVED, KEPT_FREE = 1 << 18, 1 << 24
"""Bytes of shared memory that are reserved at a time, and bytes that must stay free."""

BEGUN, CLOSED, GROWS, GROWN = range(4)
"""Rows of the counters: last exchange begun, last one closed, last one with growth, new length."""

NUMBER, PLACE, LENGTH = range(3)
"""Entries of a header: number, position and length of a message."""


def on_one_node(comm: MPI.Comm) -> bool:
    """Whether all ranks share memory. Collective."""
    node = comm.Split_type(library(comm).COMM_TYPE_SHARED)
    found: bool = node.Get_size() == comm.Get_size()
    node.Free()
    return found


@dataclass(frozen=True)
class Slots:
    """Slots of all ranks, as bytes: ``memory`` of shape ``(R * SLOTS * length,)``."""

    memory: Tensor
    length: int

    def view(
        self, number: int, rank: int, place: int, shape: Sequence[int], like: Tensor
    ) -> Tensor:
        """Return a tensor with the type of ``like`` in the slot of a rank's exchange."""
        begin = (rank * SLOTS + number % SLOTS) * self.length + place
        stop = begin + math.prod(shape) * like.element_size()
        return self.memory[begin:stop].view(like.dtype).view(tuple(shape))


NO_SLOTS = Slots(torch.empty(0, dtype=torch.uint8), 0)


class Mailbox:
    """Slots, headers and counters of the ranks of ``comm``, all on one node. Collective.

    Parameters
    ----------
    comm
        Communicator of the ranks.

    Attributes
    ----------
    full
        Whether the node once lacked room for an exchange; such exchanges go through MPI.
    """

    def __init__(self, comm: MPI.Comm) -> None:
        self.comm = comm
        self.size, self.rank = comm.Get_size(), comm.Get_rank()
        self.full = False
        self._open: set[int] = set()
        self._slots = NO_SLOTS
        self._windows: list[Window] = []
        counters, headers = (4, self.size), (SLOTS, self.size, self.size, MESSAGES, 3)
        n, bytes_ = math.prod(counters), 8 * (math.prod(counters) + math.prod(headers))
        self._control = Window(comm, bytes_)
        memory = self._control.memory.view(np.int64)
        self._counters = memory[:n].reshape(counters)
        self._headers = memory[n:].reshape(headers)
        if self.rank == 0:
            memory[:] = 0
        self._control.sync()
        comm.Barrier()
        self._control.sync()

    def begin(self, number: int, most: int) -> Slots | None:
        """Begin an exchange; return None if it must go through MPI, the same on every rank.

        Parameters
        ----------
        number
            Number of the exchange in the group, from 1 on.
        most
            Largest number of bytes that a rank sends, with each message rounded up to whole lines.

        Raises
        ------
        HpcsampError
            If the exchanges of the ranks differ.
        """
        # an aborted pass may have left exchanges open
        self._open = {n for n in self._open if n > number - SLOTS}
        if len(self._windows) > 1 and not self._open:  # the same on all ranks
            self._free_former(1)
        if most > self._slots.length and (self.full or not self._grow(number, most)):
            return None
        self._open.add(number)
        self._post(BEGUN, number)
        self._closed_up_to(min(self._open) - 1)
        self._wait_for(lambda: bool((self._counters[CLOSED] >= number - SLOTS).all()))
        return self._slots

    def post(self, number: int, to: int, message: int, place: int, length: int) -> None:
        """Announce a message to a rank: its index, its position in the slot, and its length."""
        self._control.sync()
        header = self._headers[number % SLOTS, self.rank, to, message]
        header[PLACE], header[LENGTH] = place, length
        self._control.sync()
        header[NUMBER] = number
        self._control.sync()

    def look(self, number: int, source: int, message: int) -> tuple[int, int]:
        """Wait for a message to this rank; return its position in the slot and its length.

        Raises
        ------
        HpcsampError
            If the other rank sends a different message.
        """
        header = self._headers[number % SLOTS, source, self.rank, message]
        grows = self._counters[GROWS]
        own = max(number - 1, int(grows[self.rank]))
        self._wait_for(lambda: header[NUMBER] == number or grows[source] > own)
        if header[NUMBER] != number:
            self._differ(source)
        return int(header[PLACE]), int(header[LENGTH])

    def close(self, number: int) -> None:
        """Release the messages of an exchange, which are no longer read."""
        self._open.discard(number)
        self._closed_up_to(min(self._open, default=int(self._counters[BEGUN, self.rank]) + 1) - 1)

    def free(self) -> None:
        """Free the memory. Collective."""
        self._free_former()
        self._control.free()

    def _closed_up_to(self, number: int) -> None:
        if number > self._counters[CLOSED, self.rank]:
            self._post(CLOSED, number)

    def _post(self, row: int, value: int) -> None:
        self._control.sync()
        self._counters[row, self.rank] = value
        self._control.sync()

    def _wait_for(self, done: Callable[[], bool]) -> None:
        if not done():
            with here.waiting(Doing.EXCHANGE):
                wait(done)
        self._control.sync()

    def _grow(self, number: int, most: int) -> bool:
        """Allocate longer slots if all ranks have room for them; return whether they have."""
        slot = slot_of(most)
        self._post(GROWN, slot)
        self._post(GROWS, number)
        grows, begun = self._counters[GROWS], self._counters[BEGUN]
        self._wait_for(lambda: bool(((grows >= number) | (begun >= number)).all()))
        for rank in range(self.size):
            if grows[rank] < number or self._counters[GROWN, rank] != slot:
                self._differ(rank)
        if not self._open:  # then no rank has an open exchange
            self._free_former()
        needed = self.size * SLOTS * slot
        free = self.comm.allreduce(shared_memory_free(), op=library(self.comm).MIN)
        window = Window(self.comm, needed) if needed + KEPT_FREE <= free * 0.95 else None
        if window is None or not self._reserved(window, slot):
            self.full = True
            if self.rank == 0:
                sys.stderr.write(
                    f"hpcsamp: exchanges of {self.size} model ranks go through MPI, which is "
                    f"slower: they need {needed / 1e6:,.1f} MB of shared memory, and "
                    f"{SHARED_MEMORY} on {library(self.comm).Get_processor_name()} has "
                    f"{free / 1e6:,.1f} MB free; mount it larger{more('shared-memory')}\n"
                )
            return False
        self._windows.append(window)
        self._slots = Slots(torch.from_numpy(window.memory), slot)
        return True

    def _free_former(self, kept: int = 0) -> None:
        """Free all windows of slots but the last ``kept``, when no rank reads them. Collective."""
        if not kept:
            self._slots = NO_SLOTS
        while len(self._windows) > kept:
            self._windows.pop(0).free()

    def _reserved(self, window: Window, slot: int) -> bool:
        """Reserve the memory of this rank's slots, near its cores; return whether all ranks could.

        Writing more bytes than are free would end the process without a message.
        """
        begin, end = self.rank * SLOTS * slot, (self.rank + 1) * SLOTS * slot
        fits = True
        for start in range(begin, end, RESERVED):
            fits = fits and shared_memory_free() > KEPT_FREE
            if fits:
                window.memory[start : min(start + RESERVED, end)] = 0
        if all(self.comm.allgather(fits)):
            return True
        window.free()
        return False

    def _differ(self, rank: int) -> NoReturn:
        raise HpcsampError(
            f"model rank {self.rank} and model rank {rank} are about to exchange different data: "
            f"their networks or inputs differ"
        )


def slot_of(most: int) -> int:
    """Length of a slot for exchanges of ``most`` bytes a rank, rounded up by at most a quarter."""
    unit = max(PAGE, 1 << max(0, most.bit_length() - 3))
    return -(-most // unit) * unit


def bytes_of(shape: Sequence[int], like: Tensor) -> int:
    """Number of bytes that a message occupies in a slot."""
    return -(-math.prod(shape) * like.element_size() // LINE) * LINE
