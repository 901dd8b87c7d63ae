"""Exchange shares of a method's weights within the sample group."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from hpcsamp.collectives.base import Collectives


class SampleGroup:
    """Sample group of this rank, see :class:`hpcsamp.methods.sharing.SampleGroupLike`.

    Parameters
    ----------
    collectives
        The transport.
    """

    def __init__(self, collectives: Collectives) -> None:
        self._collectives = collectives
        self.size, self.rank = collectives.sample_size, collectives.sample_rank

    def begin_gather(self, own: Tensor, counts: Sequence[int]) -> Callable[[], Tensor]:
        """Begin to concatenate the flat tensors of the ranks."""
        return self._collectives.begin_gather(own, counts, "sample")

    def scatter_sum(self, whole: Tensor, counts: Sequence[int]) -> Tensor:
        """Sum a flat tensor over the ranks, each of which receives its part."""
        return self._collectives.scatter_sum(whole, counts, "sample")

    def largest(self, number: int) -> int:
        """Return the largest value of a number over the ranks."""
        found = torch.tensor(float(number), dtype=torch.float64)
        return int(self._collectives.max_over_samples(found))

    def copy_first_(self, x: Tensor) -> None:
        """Overwrite a tensor with that of the first replica."""
        self._collectives.copy_first_(x, "replicas")
