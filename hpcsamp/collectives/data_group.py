"""Exchange tensors within the data group while a method evaluates samples."""

from __future__ import annotations

from torch import Tensor

from hpcsamp.collectives.base import Collectives
from hpcsamp.grid import Over


class DataGroup:
    """Data group of this rank, see :class:`hpcsamp.weights.data_group.DataGroupLike`.

    Parameters
    ----------
    collectives
        The transport.
    replicas
        Ranks that hold the same modules.
    """

    def __init__(self, collectives: Collectives, replicas: Over) -> None:
        self._collectives, self._replicas = collectives, replicas
        self.size, self.rank = collectives.data_size, collectives.data_rank

    def gathered(self, x: Tensor) -> Tensor:
        """Gather a tensor of each rank of the data group, in rank order."""
        whole = self._collectives.gather(x[None], [1] * self.size, "data")
        return whole

    def sum_(self, x: Tensor) -> None:
        """Sum a tensor over the data group, in place."""
        self._collectives.sum_(x, "data")

    def sum_holders_(self, x: Tensor, shares: bool) -> None:
        """Sum a tensor over model ranks, and over sample ranks that hold shares, in place."""
        if shares:
            self._collectives.sum_(x, "sample")
        if self._collectives.model_size > 1:
            self._collectives.sum_(x, "model")

    def sum_replicas_(self, x: Tensor) -> None:
        """Sum a tensor over the ranks that hold the same modules, in place."""
        if self._collectives.size(self._replicas) > 1:
            self._collectives.sum_(x, self._replicas)
