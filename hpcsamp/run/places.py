"""Locate the values that a rank holds within the whole state, and choose which rank writes them.

The state consists of that of the method and that of its optimiser. Model ranks hold parts of a
network, sample ranks hold rows of members or shards (:mod:`hpcsamp.grid.placement`), and the
remaining ranks hold copies; a checkpoint stores each value once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from hpcsamp.errors import CheckpointError
from hpcsamp.grid import Topology
from hpcsamp.grid.parts import Part
from hpcsamp.grid.placement import REPLICATED, Replicated, RowList
from hpcsamp.grid.runs import Runs
from hpcsamp.methods import Method
from hpcsamp.weights import Layout, Pieces

if TYPE_CHECKING:
    from hpcsamp.collectives import Updates

Key = tuple[Any, ...]
"""Position of a value in a nested table: the keys that lead to it, such as ``("mean",)``."""


@dataclass(frozen=True)
class StatePlace:
    """Location of a value within the whole state.

    Attributes
    ----------
    runs
        Positions in the whole tensor of the values that this rank holds.
    copy, copies
        Index of this rank among the ranks that hold the same values, and their number.
    """

    runs: Runs
    copy: int = 0
    copies: int = 1


@dataclass(frozen=True)
class _Of:
    """Placement of a value on the grid, and its shape before it was divided.

    Attributes
    ----------
    placement
        Placement along the sample axis.
    pieces
        Pieces along the model axis, if model ranks hold parts.
    full
        Shape of a sharded tensor before it was divided, on this model rank.
    """

    placement: Replicated
    pieces: Pieces | None
    full: tuple[int, ...]


class Places:
    """Locations of all values of a state. The constructor is collective over the world.

    Parameters
    ----------
    method
        Method whose state is located.
    topology
        Grid of ranks.
    updates
        Updates of the optimiser, if its state is needed.
    """

    def __init__(self, method: Method, topology: Topology, updates: Updates | None = None) -> None:
        self.topology, self.updates = topology, updates
        self.placement = method.placement
        self._names = {id(p): name for name, p in method.named_parameters()}
        self._pieces = method.pieces() if topology.model_size > 1 else {}
        parameters = method.named_parameters()
        shards = {n: p.numel() for n, p in parameters if self.placement.of(n).flattened}
        each = topology.sample_comm.allgather(shards)
        self._lengths = {name: sum(of[name] for of in each) for name in shards}

    def of(self, key: Key, x: Any) -> StatePlace | None:
        """Location of a value of this rank; None if the value is the same on all ranks.

        Parameters
        ----------
        key
            Its first entry names the state: ``"optimizer"``, or a state of the method.
        """
        if isinstance(x, RowList):
            rows = Runs.whole(self.placement.whole_of((len(x),), ()))
            return self._place(rows, self.placement, False)
        if not isinstance(x, Tensor) or x.dim() == 0:
            return None
        of = self._of(key, tuple(x.shape))
        shape = of.placement.whole_of(x.shape, of.full)
        whole = tuple(shape) if of.pieces is None else of.pieces.whole_of(shape)
        found = self._place(self._everything(key, whole, of), of.placement, of.pieces is not None)
        if found.runs.size != x.numel():
            raise CheckpointError(
                f"{named(key)} has {x.numel()} values on rank {self.topology.rank}, but "
                f"{found.runs.size} in the whole state"
            )
        return found

    def own(self, key: Key, whole: Sequence[int]) -> tuple[Runs, tuple[int, ...]]:
        """Position of this rank's part in a tensor of shape ``whole``, and shape of the part."""
        of = self._of(key, None)
        everything = self._everything(key, tuple(whole), of)
        runs = of.placement.place(everything)
        shape = tuple(whole) if of.pieces is None else of.pieces.local_of(whole)
        return runs, of.placement.held_of(shape, runs.size)

    def _of(self, key: Key, shape: tuple[int, ...] | None) -> _Of:
        if key[0] != "optimizer":
            name = str(key[1])
            full = (self._lengths.get(name, 0),)
            return _Of(self.placement.of(name), self._pieces.get(name), full)
        assert self.updates is not None
        if len(key) < 3 or key[1] != "state":
            return _Of(REPLICATED, None, ())
        p, columns = self.updates.stepped[key[2]]
        name = self._names[id(p)]
        whole = (self._lengths[name],) if name in self._lengths else tuple(p.shape)
        return _Of(self.updates.placement, _some(self._pieces.get(name), columns), whole)

    def _everything(self, key: Key, whole: tuple[int, ...], of: _Of) -> Runs:
        """Positions of the values that belong to this rank's model part."""
        if of.pieces is None:
            return Runs.whole(whole)
        runs, shape = _runs_of(of.pieces)
        if whole[len(whole) - len(shape) :] != shape:
            raise CheckpointError(
                f"{named(key)} has the shape ({', '.join(map(str, whole))}), but the network needs "
                f"({', '.join(map(str, shape))})"
            )
        return Runs.repeated(whole, runs, math.prod(shape))

    def _place(self, everything: Runs, placement: Replicated, in_parts: bool) -> StatePlace:
        t = self.topology
        copy, copies = t.data_rank, t.data_size
        if placement.replicas != "data":
            copy, copies = copy * t.sample_size + t.sample_rank, copies * t.sample_size
        if not in_parts:
            copy, copies = copy * t.model_size + t.model_rank, copies * t.model_size
        return StatePlace(placement.place(everything), copy, copies)


def _some(pieces: Pieces | None, columns: slice | None) -> Pieces | None:
    """Positions, in the whole vector, of the variables in some columns of a flat vector."""
    if columns is None or not isinstance(pieces, Layout):
        return pieces
    own = range(columns.start, columns.stop)
    return Layout(v for v in pieces.variables if v.offset in own)


def _runs_of(pieces: Pieces) -> tuple[list[tuple[int, int]], tuple[int, ...]]:
    """Runs of the flattened whole, and the trailing shape to which they refer."""
    if isinstance(pieces, Layout):
        return [(at, at + b - a) for a, b, at in pieces.pieces], (pieces.whole,)
    assert isinstance(pieces, Part)
    return pieces.runs(), pieces.whole_of(pieces.local)


def named(key: Key) -> str:
    """Format a key for messages: ``optimizer.state.0.exp_avg``."""
    return ".".join(map(str, key))
