"""A model rank without the others: what it holds, computes and would exchange, for planning.

A network built along such an axis has the shapes that it has on one of M ranks. A pass on tensors
without values makes what the rank would make, and every exchange is counted and brings no values.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from hpcsamp import serial
from hpcsamp.layers.axis import ALONE, ModelAxis
from hpcsamp.layers.group import Exchange, Group


class Imagined(serial.Comm):
    """The communicator of ranks of which one is looked at, the only one that there is.

    Parameters
    ----------
    size, rank
        How many they are, and which one is looked at.
    """

    def __init__(self, size: int, rank: int) -> None:
        self.size, self.rank = size, rank

    def Get_size(self) -> int:  # noqa: N802
        """How many they are."""
        return self.size

    def Get_rank(self) -> int:  # noqa: N802
        """Which one is looked at."""
        return self.rank

    def allgather(self, obj: Any) -> list[Any]:
        """As if all ranks were like the one that is looked at."""
        return [obj] * self.size


class ImaginedExchange(Exchange):
    """An exchange that is counted and brings zeros."""

    def _send(self, x: Tensor, to: Sequence[int]) -> None:
        """Nobody receives it."""

    def wait(self) -> list[Tensor]:
        """Zeros."""
        return [self._like.new_zeros(shape) for shape, _ in self._expected]


class ImaginedGroup(Group):
    """The ranks along a direction of an imagined axis."""

    __slots__ = ()

    def begin(self, like: Tensor, *shapes: Sequence[int]) -> Exchange:
        """A new exchange."""
        self.counted.exchanges += 1
        return ImaginedExchange(self, like)


class ImaginedAxis(ModelAxis):
    """A model axis of :class:`Imagined` ranks."""

    def _directions(self, s: int, c: int) -> tuple[Group, Group]:
        space: Any = Imagined(self.layout[0], s)
        channels: Any = Imagined(self.layout[1], c)
        return ImaginedGroup(space, self.counted), ImaginedGroup(channels, self.counted)


def imagined(size: int, rank: int = -1) -> ModelAxis:
    """One of so many model ranks, with a count of exchanges of its own.

    A size of 1 is :data:`~hpcsamp.layers.axis.ALONE`.

    Parameters
    ----------
    size
        ``M``.
    rank
        Which one; by default the last, which has the largest share of what does not divide.
    """
    comm: Any = Imagined(size, rank % size)
    return ALONE if size == 1 else ImaginedAxis(comm)
