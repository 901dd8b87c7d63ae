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
from hpcsamp.weights import Pieces


class Parted:
    """The parts of a method's state, and of its optimiser's, on the ranks of a model group.

    Parameters
    ----------
    method
        Whose state is in parts where :meth:`hpcsamp.methods.Method.pieces` says so.
    topology
        The grid.
    """

    def __init__(self, method: Method, topology: Topology) -> None:
        self._names = {id(p): name for name, p in method.named_parameters()}
        self._comm = topology.model_comm
        self._ranks: list[Mapping[str, Pieces]] = [{}]
        if topology.model_size > 1:
            self._ranks = self._comm.allgather({**method.pieces(), **method.named_pieces()})
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

    def whole_of(self, parameters: Sequence[nn.Parameter], state: Any) -> Any:
        """The same as :meth:`whole` of the table ``state`` of an optimiser of some parameters."""
        return None if self._elsewhere else self._each(parameters, state, self._joined)

    def cut_of(self, parameters: Sequence[nn.Parameter], whole: Any) -> Any:
        """This rank's part of an optimiser's table ``state``."""
        return self._each(parameters, whole, self._cut)

    def _each(
        self, parameters: Sequence[nn.Parameter], state: Any, change: Callable[[str, Any], Any]
    ) -> Any:
        if not self._own or state is None:
            return state
        names = [self._names[id(p)] for p in parameters]
        return {
            i: {key: change(names[i], x) for key, x in of_one.items()}
            for i, of_one in state.items()
        }

    def _is_parted(self, name: str, x: Any) -> bool:
        return name in self._own and isinstance(x, Tensor) and x.dim() > 0

    def _cut(self, name: str, x: Any) -> Any:
        return self._own[name].cut(x).clone() if self._is_parted(name, x) else x

    def _joined(self, name: str, x: Any) -> Any:
        if not self._is_parted(name, x):
            return x
        shape = self._own[name].whole_of(x.shape)
        found = gather_rows(x.reshape(-1), self._comm)
        if found is None:
            return None
        whole = found.new_zeros(shape)
        local = [ranks[name].local_of(shape) for ranks in self._ranks]
        numbers = found.split([math.prod(one) for one in local])
        for ranks, one, form in zip(self._ranks, numbers, local, strict=True):
            ranks[name].put(whole, one.view(form))
        return whole
