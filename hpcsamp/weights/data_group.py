"""Interface to the ranks with the same samples and other items, for evaluating samples."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class DataGroupLike(Protocol):
    """The data group of this rank; see :meth:`hpcsamp.methods.Method.join`.

    Attributes
    ----------
    size, rank
        Number of ranks of the group, and the index of this one.
    """

    size: int
    rank: int

    def gathered(self, x: Tensor) -> Tensor:
        """Return ``(size, n)``: the values ``(n,)`` of each rank of the data group, in order."""

    def sum_(self, x: Tensor) -> None:
        """Sum over the data group, in place."""

    def sum_holders_(self, x: Tensor, shares: bool) -> None:
        """Sum over the ranks that together hold one network, in place.

        ``shares``: whether the ranks of a sample group hold shares of its weights.
        """

    def sum_replicas_(self, x: Tensor) -> None:
        """Sum over all ranks that hold the same module, in place."""
