"""Sharded optimiser state: each rank of a sample group updates 1/P of the parameters.

(ZeRO stage 1; Rajbhandari et al. 2020.) The flat gradient is summed and scattered over the group,
each rank steps its part with an optimiser that knows nothing else, and the parts are gathered: the
bytes of one allreduce, 1/P of the optimiser's memory and time. Exact for optimisers that treat each
element alone (SGD, Adam and their kin).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from hpcsamp.collectives.base import Collectives
from hpcsamp.grid import share


class Shards:
    """A rank's part of some parameters.

    Parameters
    ----------
    parameters
        Contiguous parameters of one type and device, the same on all ranks.
    collectives
        The sample group.

    Attributes
    ----------
    parts
        One parameter for each of ``parameters``, sharing its memory: what the optimiser is built
        on. Empty where this rank has nothing of it.
    places
        Where each part lies in the flattened parameter.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], collectives: Collectives) -> None:
        self.parameters = [p for p in parameters if p.requires_grad]
        ranks = range(collectives.sample_size)
        self._splits = [[share(p.numel(), len(ranks), r) for r in ranks] for p in self.parameters]
        self.places = [split[collectives.sample_rank] for split in self._splits]
        self.parts = [
            nn.Parameter(p.detach().view(-1)[place.start : place.stop])
            for p, place in zip(self.parameters, self.places, strict=True)
        ]

    def reduce(self, flat: Tensor, collectives: Collectives) -> None:
        """Add to each part's gradient that of all ranks; clears the flat one. Collective."""
        start = 0
        for p, part, split in zip(self.parameters, self.parts, self._splits, strict=True):
            whole = flat[start : start + p.numel()]
            start += p.numel()
            new = collectives.group_scatter_sum(whole, [len(r) for r in split])
            collectives.reduce_members_(new)
            part.grad = new if part.grad is None else part.grad.add_(new)
        flat.zero_()

    @property
    def are_views(self) -> bool:
        """Whether the parts are still parts of the parameters."""
        return all(
            part.untyped_storage().data_ptr() == p.untyped_storage().data_ptr()
            for part, p in zip(self.parts, self.parameters, strict=True)
        )

    def share(self, collectives: Collectives) -> None:
        """Fill in what the others have updated. Collective over the sample group."""
        for p, split in zip(self.parameters, self._splits, strict=True):
            collectives.group_allgather_(p.detach().view(-1), [len(r) for r in split])

    def norm(self, collectives: Collectives) -> Tensor:
        """Norm of the whole gradient. Collective over the sample group."""
        square = sum(float(_gradient(p).double().square().sum()) for p in self.parts)
        total = collectives.sum_over_samples(torch.tensor(square, dtype=torch.float64))
        return total.sqrt()

    def scale(self, factor: Tensor) -> None:
        """Multiply the gradient."""
        for p in self.parts:
            _gradient(p).mul_(factor)


def _gradient(p: nn.Parameter) -> Tensor:
    assert p.grad is not None
    return p.grad
