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


#: Tags that every MPI has.
TAGS = 1 << 15


@dataclass(slots=True, repr=False)  # no state of a network that could be taken for one
class Counted:
    """What this rank has exchanged.

    Attributes
    ----------
    exchanges
        How many: a message to each of the others of a group, and one from each, are one exchange.
    bytes
        Sent by this rank.
    """

    exchanges: int = 0
    bytes: int = 0


class Group:
    """The ranks along a direction of the model axis. Collective over them.

    Parameters
    ----------
    comm
        Their communicator, of this group's own.
    counted
        What they exchange is counted here.

    Attributes
    ----------
    mailbox
        The memory that they share, if all are on one node.
    """

    # no attributes of a network that could be taken for its state, and put back while others wait
    __slots__ = ("_number", "comm", "counted", "mailbox", "rank", "size")

    def __init__(self, comm: MPI.Comm, counted: Counted) -> None:
        self.comm, self.counted = comm, counted
        self.size: int = comm.Get_size()
        self.rank: int = comm.Get_rank()
        self.mailbox = _mailbox(comm) if self.size > 1 else None
        self._number = 0

    def __deepcopy__(self, memo: dict[int, Any]) -> Group:
        """Copies of a network lie on the same ranks."""
        return self

    @property
    def others(self) -> list[int]:
        """The other ranks, the next one first: at no time do all send to the same."""
        return [(self.rank + i) % self.size for i in range(1, self.size)]

    def begin(self, like: Tensor, *shapes: Sequence[int]) -> Exchange:
        """A new exchange of tensors of the type of another one.

        Parameters
        ----------
        like
            The tensor.
        shapes
            Of all that the rank that sends most sends, each message once; the same on all ranks.
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
        """Give shared memory and communicator back. Collective."""
        if self.mailbox is not None:
            self.mailbox.free()
        self.comm.Free()


class Exchange(ABC):
    """Messages under way; every rank of the group begins its exchanges in the same order.

    All layers exchange through it: another transport has its own exchange.

    Parameters
    ----------
    group
        The ranks.
    like
        A tensor of the type and device of what is exchanged.
    """

    def __init__(self, group: Group, like: Tensor) -> None:
        self._group, self._like = group, like
        self._expected: list[tuple[Sequence[int], int]] = []

    def room(self, shape: Sequence[int]) -> Tensor:
        """A tensor without values, to be computed and then sent."""
        return self._like.new_empty(tuple(shape))

    def send(self, x: Tensor, *to: int) -> None:
        """Begin to send a tensor to some ranks; at no cost if it has been made by :meth:`room`."""
        self._group.counted.bytes += x.numel() * x.element_size() * len(to)
        self._send(x, to)

    def receive(self, shape: Sequence[int], source: int) -> None:
        """Expect a tensor; from one rank they come in the order in which that sends them."""
        self._expected.append((tuple(shape), source))

    @abstractmethod
    def wait(self) -> list[Tensor]:
        """What was expected, in this order, once it is there; not to be written.

        Raises
        ------
        HpcsampError
            If a message is not as long as it should be: ranks have built different networks.
        """

    def close(self) -> None:  # noqa: B027 - nothing to do if what comes is the receiver's own
        """Let the others know that what they have sent is no longer read."""

    @abstractmethod
    def _send(self, x: Tensor, to: Sequence[int]) -> None: ...

    def _check(self, source: int, length: int, expected: int) -> None:
        if length != expected:
            raise HpcsampError(
                f"model rank {self._group.rank} was to receive {expected} bytes of model rank "
                f"{source}, got {length}: their networks or inputs differ"
            )


class SharedExchange(Exchange):
    """An exchange through the memory of a node, see :mod:`hpcsamp.layers.mailbox`."""

    def __init__(
        self, group: Group, like: Tensor, number: int, mailbox: Mailbox, slots: Slots
    ) -> None:
        super().__init__(group, like)
        self._number, self._mailbox, self._slots = number, mailbox, slots
        self._filled = 0  # bytes of the own slot
        self._rooms: dict[int, int] = {}  # by address: where in the slot
        self._sent = [0] * group.size

    def room(self, shape: Sequence[int]) -> Tensor:
        """A tensor without values where the others will read it."""
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
        """What was expected, where the others have written it; until :meth:`close`."""
        found, seen = [], [0] * self._group.size
        for shape, source in self._expected:
            place, length = self._mailbox.look(self._number, source, seen[source])
            self._check(source, length, math.prod(shape) * self._like.element_size())
            found.append(self._slots.view(self._number, source, place, shape, self._like))
            seen[source] += 1
        return found

    def close(self) -> None:
        """Let the others write again where they have been read."""
        self._mailbox.close(self._number)


class MessageExchange(Exchange):
    """An exchange by MPI, of ranks on different nodes; what is not in host memory is staged."""

    def __init__(self, group: Group, like: Tensor, number: int) -> None:
        super().__init__(group, like)
        self._requests: list[Any] = []
        self._lengths: list[int | None] = []  # of what is received, None for what is sent
        self._arriving: list[Tensor] = []
        self._kept: list[Tensor] = []
        # what a pass that was broken off has left under way is never taken for a later message
        self._tag = number % TAGS

    def _send(self, x: Tensor, to: Sequence[int]) -> None:
        host = x.detach().cpu().contiguous()
        self._kept.append(host)
        for rank, piece in product(to, list(_pieces(host))):
            self._requests.append(self._group.comm.Isend(piece, dest=rank, tag=self._tag))
            self._lengths.append(None)

    def receive(self, shape: Sequence[int], source: int) -> None:
        """Begin to receive a tensor."""
        super().receive(shape, source)
        host = torch.empty(tuple(shape), dtype=self._like.dtype)
        self._arriving.append(host)
        for piece in _pieces(host):
            self._requests.append(self._group.comm.Irecv(piece, source=source, tag=self._tag))
            self._lengths.append(len(piece))

    def wait(self) -> list[Tensor]:
        """What was expected."""
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
    """The memory of ranks that are all on one node, if there is room for headers at least."""
    if isinstance(comm, Comm) or not on_one_node(comm):
        return None
    fits = shared_memory_free() > KEPT_FREE
    return Mailbox(comm) if all(comm.allgather(fits)) else None


def _pieces(host: Tensor) -> Iterator[np.ndarray]:
    """Its memory in messages of a length that MPI can count."""
    flat = host.view(-1).view(torch.uint8).numpy()
    for start in range(0, len(flat), PIECE):
        yield flat[start : start + PIECE]
