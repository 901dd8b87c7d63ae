"""Where tensors live on the grid, and what follows from it.

A placement is the one answer to: which ranks hold the same numbers, which rows of a whole tensor a
rank has, where these lie in the whole (for checkpoints), how they are gathered, and which share of
a penalty a rank computes. The weights of a method have one
(:attr:`hpcsamp.methods.Method.placement`), and so has the state of an optimiser; how gradients
reach it is in :mod:`hpcsamp.collectives.updates`.

    Replicated   every rank holds all of it
    Rows(own)    the first axis are samples, and a rank holds the rows of its own: the ranks of a
                 sample group hold different rows
    Shard(...)   one tensor that is cut, flattened, into nearly equal parts along the sample axis
    Shares(...)  some tensors of a method are cut like this, the others are on every rank
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from hpcsamp.errors import CheckpointError, UsageError
from hpcsamp.grid.axes import Topology
from hpcsamp.grid.gathering import gather_rows
from hpcsamp.grid.plan import AxisName, Over, share
from hpcsamp.grid.runs import Runs

if TYPE_CHECKING:
    from mpi4py import MPI


@dataclass(frozen=True)
class Replicated:
    """Every rank holds all of it. The others inherit what they do not change.

    Attributes
    ----------
    axis
        The axis along which ranks hold different parts; None where there is none.
    replicas
        Ranks that hold the same numbers: those whose gradients belong together, and that are
        compared with one another.
    partial
        What of the weights an optimiser sees, for messages; empty if all.
    flattened
        Whether tensors are cut anywhere, without regard to their axes.
    """

    axis: ClassVar[AxisName | None] = None
    replicas: ClassVar[Over] = "replicas"
    partial: ClassVar[str] = ""
    flattened: ClassVar[bool] = False

    def own(self, length: int) -> range:
        """Which of the ``length`` rows of a whole tensor this rank holds."""
        return range(length)

    def over(self, name: str) -> Over:
        """Ranks that hold the same numbers of a tensor of the method, by its name."""
        return self.replicas

    @property
    def modules(self) -> Over:
        """Ranks whose modules keep the same beside what is trained."""
        return self.replicas

    def penalty_share(self, rank: int, ranks: int) -> tuple[int, int]:
        """``(part, parts)`` of the penalty of what it holds that this rank computes.

        Parameters
        ----------
        rank, ranks
            The place in its sample group, and how many ranks that has.
        """
        return rank, ranks

    def sharded(self, rank: int, ranks: int) -> Replicated:
        """Where an optimiser's state lives that the ranks of a sample group share out.

        Raises
        ------
        UsageError
            If they have nothing in common to share out.
        """
        return Shard(rank, ranks) if ranks > 1 else self

    def column(self, topology: Topology) -> int:
        """The same number on ranks that hold the same."""
        return 0 if self.axis is None else topology.axis(self.axis).rank

    def of(self, name: str) -> Replicated:
        """Where a tensor of a method's state lives, by its name."""
        return self

    def place(self, everything: Runs) -> Runs:
        """Where the numbers lie that this rank holds.

        Parameters
        ----------
        everything
            Where those lie that the ranks along :attr:`axis` hold together.

        Raises
        ------
        CheckpointError
            If there are not as many rows as there should be.
        """
        return everything

    def whole_of(self, held: Sequence[int], full: Sequence[int]) -> tuple[int, ...]:
        """Shape of what the ranks along :attr:`axis` hold together, of which this one has ``held``.

        ``full``: the shape that a tensor has which is cut flattened.
        """
        return tuple(held)

    def held_of(self, shape: Sequence[int], size: int) -> tuple[int, ...]:
        """Shape of the ``size`` numbers that this rank holds of a tensor of a shape."""
        return tuple(shape)

    def gather(self, table: Any, topology: Topology) -> Any:
        """The state with all rows on rank 0; elsewhere what is not all. Collective over the world.

        Of a network in parts, that of its part on each rank of the first model group.

        Parameters
        ----------
        table
            Nested dictionaries and lists of tensors and numbers, of the same form on all ranks.
            Numbers and tensors without axes are the same on all ranks.
        """
        if self.axis is None:
            return table
        own = topology.axis(self.axis)
        if any(a.rank for a in topology.axes if a.name not in (self.axis, "model")):
            return None  # others have the same
        return _each(table, lambda x: gather_rows(x, own.comm), lambda x: _joined(x, own.comm))


@dataclass(frozen=True)
class Rows(Replicated):
    """Each sample has rows of its own, held by the rank that evaluates it.

    Parameters
    ----------
    held
        The samples of this rank.
    total
        How many there are over the sample group.
    """

    held: range
    total: int
    axis: ClassVar[AxisName | None] = "sample"
    replicas: ClassVar[Over] = "data"
    partial: ClassVar[str] = "some members"

    def own(self, length: int) -> range:
        """The rows of its samples."""
        if length != self.total:
            raise CheckpointError(f"there are {length} rows of state, but {self.total} members")
        return self.held

    def place(self, everything: Runs) -> Runs:
        """See :meth:`Replicated.place`: rows are cut along the first axis."""
        own = self.own(everything.shape[0])
        row = everything.size // self.total
        return everything.within(own.start * row, own.stop * row)

    def whole_of(self, held: Sequence[int], full: Sequence[int]) -> tuple[int, ...]:
        """With the rows of all members."""
        return (self.total, *held[1:])

    def held_of(self, shape: Sequence[int], size: int) -> tuple[int, ...]:
        """With the rows of its own members."""
        return (len(self.held), *shape[1:])

    def penalty_share(self, rank: int, ranks: int) -> tuple[int, int]:
        """All of the penalty of its own rows."""
        return 0, 1

    def sharded(self, rank: int, ranks: int) -> Replicated:
        """Not possible: see :meth:`Replicated.sharded`."""
        raise UsageError(
            "optimizer.sharded: every rank has members of its own, so there is nothing that the "
            "ranks of a sample group could share out"
        )


def rows_of(placement: Replicated) -> Rows | None:
    """The rows that a rank holds; None where samples have none of their own."""
    return placement if isinstance(placement, Rows) else None


@dataclass(frozen=True)
class Shard(Replicated):
    """Flattened tensors in nearly equal contiguous parts, in the order of the sample ranks.

    Parameters
    ----------
    rank, ranks
        Which of how many parts this rank holds.
    """

    rank: int
    ranks: int
    axis: ClassVar[AxisName | None] = "sample"
    replicas: ClassVar[Over] = "data"
    partial: ClassVar[str] = "a shard"
    flattened: ClassVar[bool] = True

    def own(self, length: int) -> range:
        """Its share of a flattened tensor."""
        return share(length, self.ranks, self.rank)

    def place(self, everything: Runs) -> Runs:
        """See :meth:`Replicated.place`: the flattened tensor is cut."""
        own = self.own(everything.size)
        return everything.within(own.start, own.stop)

    def whole_of(self, held: Sequence[int], full: Sequence[int]) -> tuple[int, ...]:
        """The full shape."""
        return tuple(full)

    def held_of(self, shape: Sequence[int], size: int) -> tuple[int, ...]:
        """A shard has one axis."""
        return (size,)


@dataclass(frozen=True)
class Shares(Replicated):
    """Flat tensors of a method in shards, what else it holds on every rank.

    Parameters
    ----------
    shard
        Which of them this rank holds.
    names
        Of the tensors in shards, each of one axis.
    """

    shard: Shard
    names: tuple[str, ...]
    axis: ClassVar[AxisName | None] = "sample"
    replicas: ClassVar[Over] = "data"
    partial: ClassVar[str] = "a shard"

    def own(self, length: int) -> range:
        """Its share of a flat tensor."""
        return self.shard.own(length)

    def over(self, name: str) -> Over:
        """See :meth:`Replicated.over`."""
        return self.of(name).replicas

    def of(self, name: str) -> Replicated:
        """See :meth:`Replicated.of`."""
        return self.shard if name in self.names else REPLICATED

    @property
    def modules(self) -> Over:
        """All: each evaluates the whole module."""
        return "replicas"

    def penalty_share(self, rank: int, ranks: int) -> tuple[int, int]:
        """All of the penalty of its own part."""
        return 0, 1

    def sharded(self, rank: int, ranks: int) -> Replicated:
        """The optimiser's state is where the weights are."""
        return self

    def gather(self, table: Any, topology: Topology) -> Any:
        """See :meth:`Replicated.gather`; of a state of the method by name."""
        if any(a.rank for a in topology.axes if a.name not in (self.axis, "model")):
            return None  # others have the same
        comm = topology.axis("sample").comm
        return {n: gather_rows(x, comm) if n in self.names else x for n, x in table.items()}


class RowList(list[Any]):
    """One thing that is no tensor for each of the rows that a rank holds."""


#: Of what every rank holds.
REPLICATED = Replicated()


def _joined(rows: RowList, comm: MPI.Comm) -> list[Any] | None:
    """Those of all ranks on rank 0. Collective."""
    everyone = comm.gather(list(rows))
    return None if everyone is None else [row for rows in everyone for row in rows]


def _each(
    table: Any, change: Callable[[Tensor], Any], join: Callable[[RowList], Any] = RowList
) -> Any:
    """The same tables with their tensors changed, but for those without axes."""
    if isinstance(table, Mapping):
        return {k: _each(v, change, join) for k, v in table.items()}
    if isinstance(table, RowList):
        return join(table)
    if isinstance(table, list):
        return [_each(v, change, join) for v in table]
    return change(table) if isinstance(table, Tensor) and table.dim() > 0 else table
