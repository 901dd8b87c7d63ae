"""Simulate one model rank without the others, to plan its memory, computation and exchanges.

A network built along such an axis has the shapes that it has on one of M ranks. A pass on tensors
without values allocates what the rank would allocate; exchanges are counted but carry no values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import Tensor

from hpcsamp import serial
from hpcsamp.layers.axis import ALONE, ModelAxis
from hpcsamp.layers.group import Counted, Exchange, Group
from hpcsamp.layers.mailbox import bytes_of


class Imagined(serial.Comm):
    """Communicator of simulated ranks; only one of them exists.

    Parameters
    ----------
    size, rank
        Number of ranks, and the index of the simulated one.
    """

    def __init__(self, size: int, rank: int) -> None:
        self.size, self.rank = size, rank

    def Get_size(self) -> int:  # noqa: N802
        """Number of ranks."""
        return self.size

    def Get_rank(self) -> int:  # noqa: N802
        """Index of the simulated rank."""
        return self.rank

    def allgather(self, obj: Any) -> list[Any]:
        """Return a list as if all ranks passed the same object."""
        return [obj] * self.size


class ImaginedExchange(Exchange):
    """An exchange that is counted but sends nothing and returns zeros.

    Messages between ranks of a node lie in shared memory, which is allocated within
    :attr:`ImaginedGroup.apart`.
    """

    _group: ImaginedGroup

    def room(self, shape: Sequence[int]) -> Tensor:
        """Return a tensor without values."""
        with self._group.apart():
            return super().room(shape)

    def _send(self, x: Tensor, to: Sequence[int]) -> None:
        """Send nothing."""

    def wait(self) -> list[Tensor]:
        """Return zeros."""
        with self._group.apart():
            return [self._like.new_zeros(shape) for shape, _ in self._expected]


class ImaginedGroup(Group):
    """The ranks along a direction of an imagined axis.

    Attributes
    ----------
    most
        Largest number of bytes that a rank has sent in one exchange so far.
    apart
        Function that returns a context in which the memory of exchanges is allocated.
    """

    __slots__ = ("apart", "most")

    def __init__(self, comm: Any, counted: Counted) -> None:
        super().__init__(comm, counted)
        self.most = 0
        self.apart: Callable[[], AbstractContextManager[object]] = nullcontext

    def begin(self, like: Tensor, *shapes: Sequence[int]) -> Exchange:
        """Begin an exchange."""
        self.counted.exchanges += 1
        self.most = max(self.most, sum(bytes_of(shape, like) for shape in shapes))
        return ImaginedExchange(self, like)


class ImaginedAxis(ModelAxis):
    """A model axis of :class:`Imagined` ranks."""

    def _directions(self, s: int, c: int) -> tuple[Group, Group]:
        space: Any = Imagined(self.layout[0], s)
        channels: Any = Imagined(self.layout[1], c)
        return ImaginedGroup(space, self.counted), ImaginedGroup(channels, self.counted)


def imagined(size: int, rank: int = -1) -> ModelAxis:
    """Return the axis of one simulated model rank, with its own counter of exchanges.

    A size of 1 returns :data:`~hpcsamp.layers.axis.ALONE`.

    Parameters
    ----------
    size
        ``M``.
    rank
        Index of the rank; by default the last, which has the largest share of uneven splits.
    """
    comm: Any = Imagined(size, rank % size)
    return ALONE if size == 1 else ImaginedAxis(comm)
