"""What the evaluation of samples needs of the ranks that have the same samples and other items."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Group(Protocol):
    """The data group of this rank; see :meth:`hpcsamp.methods.Method.join`.

    Attributes
    ----------
    size, rank
        How many ranks it has, and which of them this one is.
    """

    size: int
    rank: int

    def gathered(self, x: Tensor) -> Tensor:
        """``(size, n)``: the ``(n,)`` numbers of each rank of the data group, in their order."""

    def sum_(self, x: Tensor) -> None:
        """Sum over the data group, in place."""

    def sum_replicas_(self, x: Tensor) -> None:
        """Sum over all ranks that hold the same module, in place."""
