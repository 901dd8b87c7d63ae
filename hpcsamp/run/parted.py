"""What the ranks of a model group hold of a network, brought together on the first of them."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

from hpcsamp.grid import Topology
from hpcsamp.grid.gathering import gather_rows
from hpcsamp.methods import Method
from hpcsamp.weights import Pieces


def whole(method: Method, topology: Topology, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Trained tensors of the whole network. Collective over the model group.

    Parameters
    ----------
    method
        Whose tensors are in parts where :meth:`hpcsamp.methods.Method.named_pieces` says so.
    own
        This rank's, with the names of :meth:`~hpcsamp.methods.Method.named_variational`.

    Returns
    -------
    dict
        On the first rank; elsewhere what is not the whole.
    """
    if topology.model_size == 1:
        return dict(own)
    comm = topology.model_comm
    ranks: list[Mapping[str, Pieces]] = comm.allgather(method.named_pieces())

    def joined(name: str, x: Tensor) -> Tensor:
        if name not in ranks[comm.rank] or x.dim() == 0:
            return x
        each = [pieces[name] for pieces in ranks]
        shape = each[comm.rank].whole_of(x.shape)
        found = gather_rows(x.reshape(-1), comm)
        if found is None:
            return x
        made = found.new_zeros(shape)
        local = [pieces.local_of(shape) for pieces in each]
        numbers = found.split([math.prod(one) for one in local])
        for pieces, one, form in zip(each, numbers, local, strict=True):
            pieces.put(made, one.view(form))
        return made

    return {name: joined(name, x) for name, x in own.items()}
