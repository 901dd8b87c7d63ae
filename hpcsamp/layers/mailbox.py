"""Messages between the ranks of a node through memory that they share.

Every rank has slots of its own in a shared window. Of exchange ``n`` it writes what it sends into
slot ``n % SLOTS`` and then notes number, place and length in a header, one for each rank that it
sends to; these read the slot as it lies there. So nothing is packed, copied twice or waited for
within MPI: a product is computed where others read it, and one that reads computes with it there.

A slot is written again once all have closed the exchange before. Nobody writes another's headers
or counters; ``Win.Sync`` orders memory before one is written and after it was seen.
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
from hpcsamp.grid.polling import wait
from hpcsamp.grid.window import PAGE, SHARED_MEMORY, Window, shared_memory_free
from hpcsamp.serial import library
from hpcsamp.watchdog import Doing, here

if TYPE_CHECKING:
    from mpi4py import MPI

SLOTS = 3
"""Two exchanges of a group are open on a rank at most, and the others may read the one before."""

MESSAGES = 2
"""From a rank to another one in one exchange, at most."""

LINE = 64
"""Messages begin at multiples of it."""

RESERVED, KEPT_FREE = 1 << 18, 1 << 24
"""Shared memory is taken in pieces of so many bytes, while there is so much of it beside."""

BEGUN, CLOSED, GROWS, GROWN = range(4)
"""Rows of the counters: the exchange last begun, all closed up to, the one grown for, to what."""

NUMBER, PLACE, LENGTH = range(3)
"""A header."""


def on_one_node(comm: MPI.Comm) -> bool:
    """Whether all ranks see the same memory. Collective."""
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
        """A tensor of the type of another one in the slot of a rank's exchange."""
        begin = (rank * SLOTS + number % SLOTS) * self.length + place
        stop = begin + math.prod(shape) * like.element_size()
        return self.memory[begin:stop].view(like.dtype).view(tuple(shape))


NO_SLOTS = Slots(torch.empty(0, dtype=torch.uint8), 0)


class Mailbox:
    """Slots, headers and counters of the ranks of ``comm``, all on one node. Collective.

    Parameters
    ----------
    comm
        The ranks.

    Attributes
    ----------
    full
        Whether the node has no room for what was to be sent once; that travels by MPI.
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
        """Begin an exchange; None if it is to go through MPI. Every rank decides the same.

        Parameters
        ----------
        number
            Exchanges of the group are counted, from 1 on.
        most
            Bytes that any of the ranks sends, each message rounded up to whole lines.

        Raises
        ------
        HpcsampError
            If ranks are to send different things.
        """
        # a pass that was broken off has left some open
        self._open = {n for n in self._open if n > number - SLOTS}
        if most > self._slots.length and (self.full or not self._grow(number, most)):
            return None
        self._open.add(number)
        self._post(BEGUN, number)
        self._closed_up_to(min(self._open) - 1)
        self._wait_for(lambda: bool((self._counters[CLOSED] >= number - SLOTS).all()))
        return self._slots

    def post(self, number: int, to: int, message: int, place: int, length: int) -> None:
        """Note that a message to a rank is there: which one to it, where in the slot, how long."""
        self._control.sync()
        header = self._headers[number % SLOTS, self.rank, to, message]
        header[PLACE], header[LENGTH] = place, length
        self._control.sync()
        header[NUMBER] = number
        self._control.sync()

    def look(self, number: int, source: int, message: int) -> tuple[int, int]:
        """Wait for a message to this rank; where it lies in the slot and how long it is.

        Raises
        ------
        HpcsampError
            If its rank sends something else.
        """
        header = self._headers[number % SLOTS, source, self.rank, message]
        grows = self._counters[GROWS]
        own = max(number - 1, int(grows[self.rank]))
        self._wait_for(lambda: header[NUMBER] == number or grows[source] > own)
        if header[NUMBER] != number:
            self._differ(source)
        return int(header[PLACE]), int(header[LENGTH])

    def close(self, number: int) -> None:
        """What has come in an exchange is no longer read."""
        self._open.discard(number)
        self._closed_up_to(min(self._open, default=int(self._counters[BEGUN, self.rank]) + 1) - 1)

    def free(self) -> None:
        """Give the memory back. Collective."""
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
        """Make longer slots, if there is room for them on all ranks; whether there was."""
        unit = max(PAGE, 1 << max(0, most.bit_length() - 3))  # a quarter too long at most
        slot = -(-most // unit) * unit
        self._post(GROWN, slot)
        self._post(GROWS, number)
        grows, begun = self._counters[GROWS], self._counters[BEGUN]
        self._wait_for(lambda: bool(((grows >= number) | (begun >= number)).all()))
        for rank in range(self.size):
            if grows[rank] < number or self._counters[GROWN, rank] != slot:
                self._differ(rank)
        if not self._open:  # nor on any other rank
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
                    f"{free / 1e6:,.1f} MB free; mount it larger\n"
                )
            return False
        self._windows.append(window)
        self._slots = Slots(torch.from_numpy(window.memory), slot)
        return True

    def _free_former(self) -> None:
        """Free all windows of slots: nothing in them is read any more. Collective."""
        self._slots = NO_SLOTS
        while self._windows:
            self._windows.pop().free()

    def _reserved(self, window: Window, slot: int) -> bool:
        """Take the memory of this rank's slots, where it computes; whether all could.

        A write beyond what is free would end the process without a word.
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
            f"model rank {self.rank} was to exchange something else than model rank {rank}: their "
            f"networks or inputs differ"
        )


def bytes_of(shape: Sequence[int], like: Tensor) -> int:
    """Bytes that a message takes in a slot."""
    return -(-math.prod(shape) * like.element_size() // LINE) * LINE
