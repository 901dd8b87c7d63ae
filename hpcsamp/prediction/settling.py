"""Choose once how prediction samples are evaluated, with the same choice on all ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from hpcsamp.methods import Method

if TYPE_CHECKING:
    from mpi4py import MPI


WORTH = 256
"""Number of passes of one sample over a batch that cost about as much as the measurement."""


class Passed:
    """Counts passes, to measure the fastest way of evaluating samples only when that pays.

    A few predictions take less time than the measurement, so they are made without one.
    """

    def __init__(self) -> None:
        self.count = 0

    def enough(self, more: int) -> bool:
        """Count ``more`` passes; return whether all so far cost as much as the measurement."""
        self.count += more
        return self.count >= WORTH


def settle(
    method: Method, x: torch.Tensor, mine: range, index: torch.Tensor, world: MPI.Comm
) -> None:
    """Measure which way of evaluating samples is fastest, once. Collective over the world.

    Parameters
    ----------
    x, index
        A batch, and the positions of its items in their split.
    mine
        Prediction samples of this rank.
    """
    with torch.no_grad(), method.predicting():
        if not method.settled:
            most = max(world.allgather(len(mine)))
            method.choose(
                x, mine, most, index=index, largest=lambda value: max(world.allgather(value))
            )
