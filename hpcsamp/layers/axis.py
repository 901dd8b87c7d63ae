"""The model axis: a grid of space x channels, over which a network is split.

A network and its items are split over the M ranks of a model group. Activations are tokens
``(..., T, C)`` with T positions in space and C channels. M = 2 splits the channels, M = 4 halves
both; any other M splits the channels, if they are divisible, else space
(:meth:`ModelAxis.fitted`).

    M = 4    rank 0: first half of space, first half of the channels    rank 1: second half of them
             rank 2: second half of space, first half of the channels   rank 3: second half of them
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from hpcsamp import serial
from hpcsamp.errors import UsageError
from hpcsamp.grid import RankAxis
from hpcsamp.grid.parts import Part, bounds
from hpcsamp.layers.group import Counted, Group

if TYPE_CHECKING:
    from mpi4py import MPI

Layout = tuple[int, int]
"""Number of ranks on the spatial axis, and on the channel axis."""


class ModelAxis:
    """The model ranks that a network is split over, as a grid of space x channels.

    Construction is collective over them.

    Parameters
    ----------
    comm
        Communicator of these ranks.
    layout
        Number of ranks on the spatial axis and on the channel axis, whose product is the number of
        ranks; None: :func:`usual`.
    counted
        Counter of exchanges.

    Attributes
    ----------
    space, channels
        Groups of ranks: those with the same part of the channels and different parts of space, and
        those with the same part of space and different parts of the channels.
    alone
        This rank by itself, as a group.
    counted
        Counter of this rank's exchanges.
    """

    def __init__(
        self, comm: MPI.Comm, layout: Layout | None = None, counted: Counted | None = None
    ) -> None:
        self.comm = comm
        self.size: int = comm.Get_size()
        self.rank: int = comm.Get_rank()
        self.layout = usual(self.size) if layout is None else layout
        if self.layout[0] * self.layout[1] != self.size:
            raise UsageError(
                f"a grid of {self.layout[0]} x {self.layout[1]} ranks (space x channels) needs "
                f"{self.layout[0] * self.layout[1]} model ranks, but there are {self.size}"
            )
        self.counted = Counted() if counted is None else counted
        self.space, self.channels = self._directions(*divmod(self.rank, self.layout[1]))
        self.alone = Group(serial.COMM_SELF, self.counted)
        self._fitted: dict[Layout, ModelAxis] = {self.layout: self}

    @classmethod
    def of(cls, axis: RankAxis, layout: Layout | None = None) -> ModelAxis:
        """Axis of a grid: ``ModelAxis.of(topology.axis("model"))``. Collective over the axis."""
        return cls(axis.comm, layout)

    def _directions(self, s: int, c: int) -> tuple[Group, Group]:
        """The ranks in this rank's column (space) and row (channels) of the grid."""
        space, channels = self.comm.Split(c, s), self.comm.Split(s, c)
        return Group(space, self.counted), Group(channels, self.counted)

    @property
    def groups(self) -> list[Group]:
        """The groups along both directions of all grids of these ranks."""
        return [g for axis in self._fitted.values() for g in (axis.space, axis.channels)]

    def laid_out(self, layout: Layout) -> ModelAxis:
        """Return the same ranks in another grid, with the same counter. Collective."""
        if layout not in self._fitted:
            other = type(self)(self.comm, layout, self.counted)
            other._fitted = self._fitted
            self._fitted[layout] = other
        return self._fitted[layout]

    def part(
        self,
        shape: Sequence[int],
        channels: int | None = None,
        space: int | None = None,
        unit: int = 1,
    ) -> Part:
        """Return this rank's part of a tensor, as networks do in their ``input_part``.

        Parameters
        ----------
        shape
            Shape of the whole tensor, such as an item.
        channels, space
            Axes of the tensor that are split, in nearly equal shares, over the ranks of the channel
            axis and of the spatial axis; None: the tensor is not split in this direction.
        unit
            Number of neighbours along the axis of space that stay on one rank.
        """
        box = [(0, n) for n in shape]
        if channels is not None:
            box[channels] = bounds(shape[channels], self.channels.size)[self.channels.rank]
        if space is not None:
            box[space] = bounds(shape[space], self.space.size, unit)[self.space.rank]
        return Part(tuple(shape), tuple(box))

    def fitted(
        self, name: str, channels: Mapping[str, int], space: Mapping[str, int], fields: int = 0
    ) -> ModelAxis:
        """Return a grid of these ranks that divides a network; this one if possible. Collective.

        Parameters
        ----------
        name
            Name of the network or layer, for the message.
        channels, space
            Lengths that each side must divide, by names such as ``"channels"`` or ``"strips"``.
        fields
            Length that is split over the ranks of the channel axis in nearly equal shares of at
            least one; 0 for a network without fields.

        Raises
        ------
        UsageError
            If there is no such grid; the message contains the layer and the numbers.
        """
        for s, c in (self.layout, *layouts(self.size)):
            divides = [n % c == 0 for n in channels.values()] + [n % s == 0 for n in space.values()]
            if (not fields or c <= fields) and all(divides):
                return self.laid_out((s, c))
        sides = [
            " and ".join(f"{n} {word}" for word, n in each.items()) for each in (channels, space)
        ]
        more = f", with at least one of its {fields} fields for each rank of the channel axis"
        raise UsageError(
            f"{name}: parallel.model = {self.size}: no grid of {self.size} ranks, in space x "
            f"channels, divides its {sides[1]} x its {sides[0]}{more * bool(fields)}"
        )

    def describe(self, device: str = "cpu") -> str:
        """Describe the transport between the ranks in words; empty for one rank.

        Parameters
        ----------
        device
            Type of the device on which they compute.
        """
        ways = {
            word: device == "cpu" and group.mailbox is not None
            for word, group in (("space", self.space), ("channels", self.channels))
            if group.size > 1
        }
        by, through = "by MPI", "through shared memory"
        if len(set(ways.values())) < 2:
            phrases = [through if all(ways.values()) else by]
        else:
            phrases = [f"{through if near else by} over {word}" for word, near in ways.items()]
        return f"model ranks exchange {', '.join(phrases)}" if ways else ""

    def free(self) -> None:
        """Free shared memory and communicators; the axis cannot be used afterwards.

        Collective. Other grids of the same ranks are freed with it.
        """
        for axis in self._fitted.values():
            axis.space.free()
            axis.channels.free()
        self._fitted.clear()

    def __deepcopy__(self, memo: dict[int, Any]) -> ModelAxis:
        """Return the axis itself: copies of a network are split over the same ranks."""
        return self


def usual(size: int) -> Layout:
    """Default grid of a number of ranks: 1 x 1, 1 x 2, 2 x 2, otherwise 1 x M."""
    return (2, 2) if size == 4 else (1, size)


def layouts(size: int) -> list[Layout]:
    """All grids of a number of ranks: the default, then others by length of the spatial axis."""
    rest = [(s, size // s) for s in range(1, size + 1) if size % s == 0]
    return [usual(size), *(each for each in rest if each != usual(size))]


ALONE = ModelAxis(serial.COMM_SELF)
"""The model axis of a network that is not split: one rank, which holds everything."""

_current: ContextVar[ModelAxis] = ContextVar("model axis", default=ALONE)


def current() -> ModelAxis:
    """Return the model axis on which layers are currently built."""
    return _current.get()


@contextmanager
def along(axis: ModelAxis) -> Iterator[ModelAxis]:
    """Context in which layers are built split over a model axis; outside of it they are whole."""
    token = _current.set(axis)
    try:
        yield axis
    finally:
        _current.reset(token)
