"""Messages between the ranks along one direction of the model axis."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from hpcsamp.errors import HpcsampError
from hpcsamp.grid.gathering import PIECE
from hpcsamp.grid.window import shared_memory_free
from hpcsamp.layers.mailbox import KEPT_FREE, Mailbox, Slots, bytes_of, on_one_node
from hpcsamp.serial import Comm, library
from hpcsamp.watchdog import Doing, here

if TYPE_CHECKING:
    from mpi4py import MPI


#: Tags that every MPI library supports.
TAGS = 1 << 15


@dataclass(slots=True, repr=False)  # never mistaken for the state of a network
class Counted:
    """Counter of this rank's exchanges and the bytes that it has sent.

    Attributes
    ----------
    exchanges
        Number of exchanges: one message to, and one from, each other rank of a group count as one.
    bytes
        Bytes sent by this rank.
    """

    exchanges: int = 0
    bytes: int = 0


class Group:
    """The ranks along one direction of the model axis. Construction is collective over them.

    Parameters
    ----------
    comm
        Communicator of these ranks, for this group only.
    counted
        Counter of their exchanges.

    Attributes
    ----------
    mailbox
        Memory that they share, if all are on one node.
    """

    # no attributes that look like a network's state, and could be restored while others wait
    __slots__ = ("_number", "comm", "counted", "mailbox", "rank", "size")

    def __init__(self, comm: MPI.Comm, counted: Counted) -> None:
        self.comm, self.counted = comm, counted
        self.size: int = comm.Get_size()
        self.rank: int = comm.Get_rank()
        self.mailbox = _mailbox(comm) if self.size > 1 else None
        self._number = 0

    def __deepcopy__(self, memo: dict[int, Any]) -> Group:
        """Return the group itself: copies of a network are split over the same ranks."""
        return self

    @property
    def others(self) -> list[int]:
        """The other ranks, starting with the next, so that senders begin with different ranks."""
        return [(self.rank + i) % self.size for i in range(1, self.size)]

    def begin(self, like: Tensor, *shapes: Sequence[int]) -> Exchange:
        """Begin an exchange of tensors with the type of ``like``.

        Parameters
        ----------
        like
            A tensor of the type and device of the messages.
        shapes
            Shapes of all messages of the rank that sends most; the same on all ranks.
        """
        self.counted.exchanges += 1
        self._number += 1
        if self.mailbox is not None and like.device.type == "cpu":
            most = sum(bytes_of(shape, like) for shape in shapes)
            slots = self.mailbox.begin(self._number, most)
            if slots is not None:
                return SharedExchange(self, like, self._number, self.mailbox, slots)
        return MessageExchange(self, like, self._number)

    def free(self) -> None:
        """Free shared memory and communicator. Collective."""
        if self.mailbox is not None:
            self.mailbox.free()
        self.comm.Free()


class Exchange(ABC):
    """Messages in flight; every rank of the group begins its exchanges in the same order.

    All layers exchange through this class: another transport defines its own subclass.

    Parameters
    ----------
    group
        The ranks that exchange.
    like
        A tensor of the type and device of the messages.
    """

    def __init__(self, group: Group, like: Tensor) -> None:
        self._group, self._like = group, like
        self._expected: list[tuple[Sequence[int], int]] = []

    def room(self, shape: Sequence[int]) -> Tensor:
        """Return an uninitialised tensor, to be computed and then sent."""
        return self._like.new_empty(tuple(shape))

    def send(self, x: Tensor, *to: int) -> None:
        """Begin sending a tensor to some ranks, without a copy if it comes from :meth:`room`."""
        self._group.counted.bytes += x.numel() * x.element_size() * len(to)
        self._send(x, to)

    def receive(self, shape: Sequence[int], source: int) -> None:
        """Expect a tensor; those of one rank arrive in the order in which it sends them."""
        self._expected.append((tuple(shape), source))

    @abstractmethod
    def wait(self) -> list[Tensor]:
        """Wait for the expected tensors and return them in order; they must not be written to.

        Raises
        ------
        HpcsampError
            If a message has an unexpected length, because ranks have built different networks.
        """

    def close(self) -> None:  # noqa: B027 - nothing to do if received data belong to the receiver
        """Signal to the senders that their messages will no longer be read."""

    @abstractmethod
    def _send(self, x: Tensor, to: Sequence[int]) -> None: ...

    def _check(self, source: int, length: int, expected: int) -> None:
        if length != expected:
            raise HpcsampError(
                f"model rank {self._group.rank} expected {expected} bytes from model rank "
                f"{source}, but got {length}: their networks or inputs differ"
            )


class SharedExchange(Exchange):
    """An exchange through the shared memory of a node, see :mod:`hpcsamp.layers.mailbox`."""

    def __init__(
        self, group: Group, like: Tensor, number: int, mailbox: Mailbox, slots: Slots
    ) -> None:
        super().__init__(group, like)
        self._number, self._mailbox, self._slots = number, mailbox, slots
        self._filled = 0  # bytes of this rank's slot
        self._rooms: dict[int, int] = {}  # position in the slot, by address
        self._sent = [0] * group.size

    def room(self, shape: Sequence[int]) -> Tensor:
        """Return an uninitialised tensor in memory that the other ranks read."""
        found = self._slots.view(self._number, self._group.rank, self._filled, shape, self._like)
        self._rooms[found.data_ptr()] = self._filled
        self._filled += bytes_of(shape, self._like)
        return found

    def _send(self, x: Tensor, to: Sequence[int]) -> None:
        if x.data_ptr() not in self._rooms:
            x = self.room(x.shape).copy_(x.detach())
        place = self._rooms[x.data_ptr()]
        for rank in to:
            length = x.numel() * x.element_size()
            self._mailbox.post(self._number, rank, self._sent[rank], place, length)
            self._sent[rank] += 1

    def wait(self) -> list[Tensor]:
        """Return the expected tensors in the memory of their senders; valid until :meth:`close`."""
        found, seen = [], [0] * self._group.size
        for shape, source in self._expected:
            place, length = self._mailbox.look(self._number, source, seen[source])
            self._check(source, length, math.prod(shape) * self._like.element_size())
            found.append(self._slots.view(self._number, source, place, shape, self._like))
            seen[source] += 1
        return found

    def close(self) -> None:
        """Allow the other ranks to overwrite the messages that have been read."""
        self._mailbox.close(self._number)


class MessageExchange(Exchange):
    """An exchange through MPI, between any ranks; device memory is staged in host memory."""

    def __init__(self, group: Group, like: Tensor, number: int) -> None:
        super().__init__(group, like)
        self._requests: list[Any] = []
        self._lengths: list[int | None] = []  # of received messages; None for sent ones
        self._arriving: list[Tensor] = []
        self._kept: list[Tensor] = []
        # messages left by an aborted pass must not be mistaken for later ones
        self._tag = number % TAGS

    def _send(self, x: Tensor, to: Sequence[int]) -> None:
        host = x.detach().cpu().contiguous()
        self._kept.append(host)
        for rank, piece in product(to, list(_pieces(host))):
            self._requests.append(self._group.comm.Isend(piece, dest=rank, tag=self._tag))
            self._lengths.append(None)

    def receive(self, shape: Sequence[int], source: int) -> None:
        """Begin receiving a tensor."""
        super().receive(shape, source)
        host = torch.empty(tuple(shape), dtype=self._like.dtype)
        self._arriving.append(host)
        for piece in _pieces(host):
            self._requests.append(self._group.comm.Irecv(piece, source=source, tag=self._tag))
            self._lengths.append(len(piece))

    def wait(self) -> list[Tensor]:
        """Wait for the expected tensors and return them."""
        if self._requests:
            MPI = library(self._group.comm)  # noqa: N806
            statuses = [MPI.Status() for _ in self._requests]
            with here.waiting(Doing.EXCHANGE):
                MPI.Request.Waitall(self._requests, statuses)
            for length, status in zip(self._lengths, statuses, strict=True):
                if length is not None:
                    self._check(status.Get_source(), status.Get_count(MPI.BYTE), length)
        self._requests, self._lengths, self._kept = [], [], []
        return [host.to(self._like.device) for host in self._arriving]


def _mailbox(comm: MPI.Comm) -> Mailbox | None:
    """Shared memory of ranks on one node; None on several nodes, or without room for headers."""
    if isinstance(comm, Comm) or not on_one_node(comm):
        return None
    fits = shared_memory_free() > KEPT_FREE
    return Mailbox(comm) if all(comm.allgather(fits)) else None


def _pieces(host: Tensor) -> Iterator[np.ndarray]:
    """Split the memory of a tensor into messages whose length fits MPI's 32-bit counts."""
    flat = host.view(-1).view(torch.uint8).numpy()
    for start in range(0, len(flat), PIECE):
        yield flat[start : start + PIECE]
