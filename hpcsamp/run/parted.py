"""The state of a network in parts: brought together for a checkpoint, and taken apart again.

Checkpoints hold the network in one piece, so that a run goes on on any number of model ranks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from hpcsamp.grid import Topology
from hpcsamp.grid.gathering import gather_rows
from hpcsamp.methods import Method
from hpcsamp.weights import Layout, Pieces

Stepped = Sequence[tuple[nn.Parameter, slice | None]]


class Parted:
    """The parts of a method's state, and of its optimiser's, on the ranks of a model group.

    Parameters
    ----------
    method
        Whose state is in parts where :meth:`hpcsamp.methods.Method.pieces` says so.
    topology
        The grid.
    named
        Whether tensors have the names of :meth:`~hpcsamp.methods.Method.named_variational`, some of
        which are others in a state.
    """

    def __init__(self, method: Method, topology: Topology, named: bool = False) -> None:
        self._names = {id(p): name for name, p in method.named_parameters()}
        self._comm = topology.model_comm
        self._ranks: list[Mapping[str, Pieces]] = [{}]
        if topology.model_size > 1:
            own = method.named_pieces() if named else method.pieces()
            self._ranks = self._comm.allgather(own)
        self._own = self._ranks[topology.model_rank]
        self._elsewhere = bool(topology.data_rank or topology.sample_rank)

    def whole(self, state: Mapping[str, Any] | None) -> dict[str, Any] | None:
        """A state of the method as that of the whole network. Collective over the model group.

        Parameters
        ----------
        state
            On this rank, with all samples.

        Returns
        -------
        dict
            On rank 0; elsewhere what is not the whole.
        """
        if state is None or self._elsewhere:
            return None
        return {name: self._joined(name, x) for name, x in state.items()}

    def cut(self, whole: Mapping[str, Any]) -> dict[str, Any]:
        """This rank's part of a state of the method."""
        return {name: self._cut(name, x) for name, x in whole.items()}

    def whole_of(self, stepped: Stepped, state: Any) -> Any:
        """The same as :meth:`whole` of the table ``state`` of an optimiser.

        ``stepped``: of what it is, see :class:`~hpcsamp.collectives.Updates`.
        """
        return None if self._elsewhere else self._each(stepped, state, self._joined)

    def cut_of(self, stepped: Stepped, whole: Any) -> Any:
        """This rank's part of an optimiser's table ``state``."""
        return self._each(stepped, whole, self._cut)

    def _each(self, stepped: Stepped, state: Any, change: Callable[..., Any]) -> Any:
        if not self._own or state is None:
            return state
        of = [(self._names[id(p)], self._variables(p, columns)) for p, columns in stepped]
        return {
            i: {key: change(of[i][0], x, of[i][1]) for key, x in of_one.items()}
            for i, of_one in state.items()
        }

    def _variables(self, p: nn.Parameter, columns: slice | None) -> frozenset[str] | None:
        """Names of the variables that lie in some columns of a flat parameter; None for all."""
        layout = self._own.get(self._names[id(p)])
        if columns is None or not isinstance(layout, Layout):
            return None
        own = range(columns.start, columns.stop)
        return frozenset(v.name for v in layout.variables if v.offset in own)

    def _is_parted(self, name: str, x: Any) -> bool:
        return name in self._own and isinstance(x, Tensor) and x.dim() > 0

    def _cut(self, name: str, x: Any, of: frozenset[str] | None = None) -> Any:
        return _some(self._own[name], of).cut(x).clone() if self._is_parted(name, x) else x

    def _joined(self, name: str, x: Any, of: frozenset[str] | None = None) -> Any:
        if not self._is_parted(name, x):
            return x
        each = [_some(ranks[name], of) for ranks in self._ranks]
        shape = each[self._comm.rank].whole_of(x.shape)
        found = gather_rows(x.reshape(-1), self._comm)
        if found is None:
            return None
        whole = found.new_zeros(shape)
        local = [pieces.local_of(shape) for pieces in each]
        numbers = found.split([math.prod(one) for one in local])
        for pieces, one, form in zip(each, numbers, local, strict=True):
            pieces.put(whole, one.view(form))
        return whole


def _some(pieces: Pieces, of: frozenset[str] | None) -> Pieces:
    """Where some neighbouring variables of a flat vector lie among those of the whole."""
    if of is None or not isinstance(pieces, Layout):
        return pieces
    return Layout(v for v in pieces.variables if v.name in of)
