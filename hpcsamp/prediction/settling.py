"""Choose how prediction samples are evaluated: once, and the same on all ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from hpcsamp.methods import Method

if TYPE_CHECKING:
    from mpi4py import MPI


WORTH = 256
"""Number of passes of one sample over a batch that cost about as much as the measurement."""


class Passed:
    """Counts passes to decide when a measurement pays off.

    A few predictions finish sooner than the measurement would, so they are not preceded by one.
    """

    def __init__(self) -> None:
        self.count = 0

    def enough(self, more: int) -> bool:
        """Whether to measure before ``more`` passes: all passes together cost as much."""
        self.count += more
        return self.count >= WORTH


def settle(
    method: Method, x: torch.Tensor, mine: range, index: torch.Tensor, world: MPI.Comm
) -> None:
    """Measure which way is fastest, unless it is known. Collective over the world.

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
