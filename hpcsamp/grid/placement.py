"""Placement of tensors on the grid.

A placement determines which ranks hold the same elements, which rows of a tensor a rank holds,
where they lie in the whole (for checkpoints), and which share of a penalty a rank computes. The
weights of a method have a placement (:attr:`hpcsamp.methods.Method.placement`), and so has the
state of an optimiser; :mod:`hpcsamp.collectives.updates` describes how gradients reach it.

    Replicated       every rank holds the whole tensor
    SampleRows(own)  the first axis is samples, and a rank holds the rows of its own samples: the
                     ranks of a sample group hold different rows
    Shard(...)       a tensor that is flattened and cut into nearly equal parts over the sample axis
    Shares(...)      some tensors of a method are cut like this, the others are on every rank
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from hpcsamp.errors import CheckpointError, UsageError
from hpcsamp.grid.axes import Topology
from hpcsamp.grid.plan import AxisName, Over, share
from hpcsamp.grid.runs import Runs


@dataclass(frozen=True)
class Replicated:
    """Placement with the whole tensor on every rank; base class of the others.

    Attributes
    ----------
    axis
        Axis along which ranks hold different parts; None if there is none.
    replicas
        Ranks that hold the same elements, so that their gradients are averaged and their values are
        compared.
    partial
        Part of the weights that an optimiser sees, for messages; empty for all.
    flattened
        Whether tensors are cut at any position, regardless of their axes.
    """

    axis: ClassVar[AxisName | None] = None
    replicas: ClassVar[Over] = "replicas"
    partial: ClassVar[str] = ""
    flattened: ClassVar[bool] = False

    def own(self, length: int) -> range:
        """Return the rows that this rank holds of a whole tensor of ``length`` rows."""
        return range(length)

    def over(self, name: str) -> Over:
        """Return the ranks that hold the same elements of the method's tensor of this name."""
        return self.replicas

    @property
    def modules(self) -> Over:
        """Ranks whose modules hold the same tensors, apart from trained ones."""
        return self.replicas

    def penalty_share(self, rank: int, ranks: int) -> tuple[int, int]:
        """Return ``(part, parts)``: which part of the penalty this rank computes.

        Parameters
        ----------
        rank, ranks
            Position in its sample group, and number of ranks in the group.
        """
        return rank, ranks

    def sharded(self, rank: int, ranks: int) -> Replicated:
        """Return the placement of an optimiser's state that is divided within a sample group.

        Raises
        ------
        UsageError
            If the ranks have no common state that could be divided.
        """
        return Shard(rank, ranks) if ranks > 1 else self

    def column(self, topology: Topology) -> int:
        """Return an integer that identifies the ranks that hold the same tensors as this rank."""
        return 0 if self.axis is None else topology.axis(self.axis).rank

    def of(self, name: str) -> Replicated:
        """Return the placement of the tensor of this name in the method's state."""
        return self

    def place(self, everything: Runs) -> Runs:
        """Return the positions of the elements that this rank holds.

        Parameters
        ----------
        everything
            Positions of the elements that the ranks along :attr:`axis` hold together.

        Raises
        ------
        CheckpointError
            If the number of rows is wrong.
        """
        return everything

    def whole_of(self, held: Sequence[int], full: Sequence[int]) -> tuple[int, ...]:
        """Return the shape of the whole along :attr:`axis` if this rank holds shape ``held``.

        ``full`` is the shape of the whole tensor, for tensors that are cut flattened.
        """
        return tuple(held)

    def held_of(self, shape: Sequence[int], size: int) -> tuple[int, ...]:
        """Return the shape of the ``size`` elements that this rank holds of a tensor."""
        return tuple(shape)


@dataclass(frozen=True)
class SampleRows(Replicated):
    """Each sample has its own rows, held by the rank that evaluates it.

    Parameters
    ----------
    held
        Samples of this rank.
    total
        Number of samples in the sample group.
    """

    held: range
    total: int
    axis: ClassVar[AxisName | None] = "sample"
    replicas: ClassVar[Over] = "data"
    partial: ClassVar[str] = "some members"

    def own(self, length: int) -> range:
        """Return the rows of this rank's samples."""
        if length != self.total:
            raise CheckpointError(f"there are {length} rows of state, but {self.total} members")
        return self.held

    def place(self, everything: Runs) -> Runs:
        """See :meth:`Replicated.place`: rows are cut along the first axis."""
        own = self.own(everything.shape[0])
        row = everything.size // self.total
        return everything.within(own.start * row, own.stop * row)

    def whole_of(self, held: Sequence[int], full: Sequence[int]) -> tuple[int, ...]:
        """Return the shape with the rows of all members."""
        return (self.total, *held[1:])

    def held_of(self, shape: Sequence[int], size: int) -> tuple[int, ...]:
        """Return the shape with the rows of this rank's members."""
        return (len(self.held), *shape[1:])

    def penalty_share(self, rank: int, ranks: int) -> tuple[int, int]:
        """Return ``(0, 1)``: this rank computes the whole penalty of its rows."""
        return 0, 1

    def sharded(self, rank: int, ranks: int) -> Replicated:
        """Raise an error, see :meth:`Replicated.sharded`."""
        raise UsageError(
            "optimizer.sharded: every rank holds its own members, so the ranks of a sample group "
            "have no common state to divide"
        )


def rows_of(placement: Replicated) -> SampleRows | None:
    """Return the placement by rows; None if samples have no rows of their own."""
    return placement if isinstance(placement, SampleRows) else None


@dataclass(frozen=True)
class Shard(Replicated):
    """Flattened tensors in nearly equal contiguous parts, in the order of the sample ranks.

    Parameters
    ----------
    rank, ranks
        Index of the part that this rank holds, and number of parts.
    """

    rank: int
    ranks: int
    axis: ClassVar[AxisName | None] = "sample"
    replicas: ClassVar[Over] = "data"
    partial: ClassVar[str] = "a shard"
    flattened: ClassVar[bool] = True

    def own(self, length: int) -> range:
        """Return the part of a flattened tensor that this rank holds."""
        return share(length, self.ranks, self.rank)

    def place(self, everything: Runs) -> Runs:
        """See :meth:`Replicated.place`: the flattened tensor is cut."""
        own = self.own(everything.size)
        return everything.within(own.start, own.stop)

    def whole_of(self, held: Sequence[int], full: Sequence[int]) -> tuple[int, ...]:
        """Return the full shape."""
        return tuple(full)

    def held_of(self, shape: Sequence[int], size: int) -> tuple[int, ...]:
        """Return the shape of a shard, which has one axis."""
        return (size,)


@dataclass(frozen=True)
class Shares(Replicated):
    """Placement with some flat tensors of a method in shards and the others on every rank.

    Parameters
    ----------
    shard
        Shard that this rank holds.
    names
        Names of the tensors that are divided into shards, each with one axis.
    """

    shard: Shard
    names: tuple[str, ...]
    axis: ClassVar[AxisName | None] = "sample"
    replicas: ClassVar[Over] = "data"
    partial: ClassVar[str] = "a shard"

    def own(self, length: int) -> range:
        """Return the part of a flat tensor that this rank holds."""
        return self.shard.own(length)

    def over(self, name: str) -> Over:
        """See :meth:`Replicated.over`."""
        return self.of(name).replicas

    def of(self, name: str) -> Replicated:
        """See :meth:`Replicated.of`."""
        return self.shard if name in self.names else REPLICATED

    @property
    def modules(self) -> Over:
        """All ranks, because each of them evaluates the whole module."""
        return "replicas"

    def penalty_share(self, rank: int, ranks: int) -> tuple[int, int]:
        """Return ``(0, 1)``: this rank computes the whole penalty of its part."""
        return 0, 1

    def sharded(self, rank: int, ranks: int) -> Replicated:
        """Return this placement: the optimiser's state is placed like the weights."""
        return self


class RowList(list[Any]):
    """Objects other than tensors, one for each of the rows that a rank holds."""


#: Placement of tensors that every rank holds.
REPLICATED = Replicated()
