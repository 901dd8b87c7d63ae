"""The model axis as layers see it: a grid of space x channels, and which network lies on it.

The M ranks of a model group hold one network and one item in parts. Activations are tokens
``(..., T, C)``: T places in space and C channels. M = 2 parts the channels, M = 4 both in halves;
any other M parts the channels, if these divide, else space (:meth:`ModelAxis.fitted`).

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
from hpcsamp.grid import Axis
from hpcsamp.grid.parts import Part, bounds
from hpcsamp.layers.group import Counted, Group

if TYPE_CHECKING:
    from mpi4py import MPI

Layout = tuple[int, int]
"""Parts of space, parts of the channels."""


class ModelAxis:
    """The ranks that hold one network in parts, as a grid of space x channels.

    Collective over them.

    Parameters
    ----------
    comm
        Their communicator.
    layout
        Parts of space and of the channels, whose product is the number of ranks; None:
        :func:`usual`.
    counted
        Where exchanges are counted.

    Attributes
    ----------
    space, channels
        The ranks that differ from this one in their part of space, with the same channels; and
        those with the same part of space and other channels.
    alone
        This rank by itself.
    counted
        What this rank has exchanged.
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
                f"{self.layout[0]} parts of space x {self.layout[1]} of the channels are not the "
                f"{self.size} model ranks"
            )
        self.counted = Counted() if counted is None else counted
        self.space, self.channels = self._directions(*divmod(self.rank, self.layout[1]))
        self.alone = Group(serial.COMM_SELF, self.counted)
        self._fitted: dict[Layout, ModelAxis] = {self.layout: self}

    @classmethod
    def of(cls, axis: Axis, layout: Layout | None = None) -> ModelAxis:
        """That of a grid: ``ModelAxis.of(topology.axis("model"))``. Collective over the axis."""
        return cls(axis.comm, layout)

    def _directions(self, s: int, c: int) -> tuple[Group, Group]:
        """The ranks of this one's column and row of the grid, of space and of channels."""
        space, channels = self.comm.Split(c, s), self.comm.Split(s, c)
        return Group(space, self.counted), Group(channels, self.counted)

    def laid_out(self, layout: Layout) -> ModelAxis:
        """The same ranks in another grid, with the same count of exchanges. Collective."""
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
        """This rank's part of a tensor: what a network's ``input_part`` and ``output_part`` return.

        Parameters
        ----------
        shape
            Of the whole, such as an item.
        channels, space
            Axes that are parted, in nearly equal shares, over the ranks of channels and of space;
            None: every rank has all of it.
        unit
            Neighbours along the axis of space that stay on one rank.
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
        """These ranks in a grid whose sides divide a network, in this one if it does. Collective.

        Parameters
        ----------
        name
            Of the network or layer, for the message.
        channels, space
            What is parted along each side, by a name such as ``"channels"`` or ``"strips"``.
        fields
            What is parted over the ranks of channels in nearly equal shares, at least one each; 0
            for a network that parts none.

        Raises
        ------
        UsageError
            If no grid of that many ranks does, with the layer and the numbers.
        """
        for s, c in (self.layout, *layouts(self.size)):
            divides = [n % c == 0 for n in channels.values()] + [n % s == 0 for n in space.values()]
            if (not fields or c <= fields) and all(divides):
                return self.laid_out((s, c))
        told = [
            " and ".join(f"{n} {word}" for word, n in each.items()) for each in (channels, space)
        ]
        more = f", with at least one of its {fields} fields for each rank of channels"
        raise UsageError(
            f"{name}: parallel.model = {self.size}: no grid of {self.size} ranks, in space x "
            f"channels, divides its {told[1]} x its {told[0]}{more * bool(fields)}"
        )

    def describe(self, device: str = "cpu") -> str:
        """How the ranks exchange, for people; empty for one rank.

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
            told = [through if all(ways.values()) else by]
        else:
            told = [f"{through if near else by} over {word}" for word, near in ways.items()]
        return f"model ranks exchange {', '.join(told)}" if ways else ""

    def free(self) -> None:
        """Give shared memory and communicators back; what lies on the axis is of no use then.

        Collective. Those of other grids of the same ranks are freed with it.
        """
        for axis in self._fitted.values():
            axis.space.free()
            axis.channels.free()
        self._fitted.clear()

    def __deepcopy__(self, memo: dict[int, Any]) -> ModelAxis:
        """Copies of a network lie on the same ranks."""
        return self


def usual(size: int) -> Layout:
    """1 x 1, 1 x 2, 2 x 2, else 1 x M."""
    return (2, 2) if size == 4 else (1, size)


def layouts(size: int) -> list[Layout]:
    """All grids of so many ranks: the usual one, then those with most parts of the channels."""
    rest = [(s, size // s) for s in range(1, size + 1) if size % s == 0]
    return [usual(size), *(each for each in rest if each != usual(size))]


ALONE = ModelAxis(serial.COMM_SELF)
"""One rank, which holds all."""

_current: ContextVar[ModelAxis] = ContextVar("model axis", default=ALONE)


def current() -> ModelAxis:
    """The model axis on which layers are built now."""
    return _current.get()


@contextmanager
def along(axis: ModelAxis) -> Iterator[ModelAxis]:
    """Build layers in parts over the ranks of a model axis; elsewhere they are the whole ones."""
    token = _current.set(axis)
    try:
        yield axis
    finally:
        _current.reset(token)
