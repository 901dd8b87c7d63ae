"""How prediction samples are evaluated: chosen once, the same on all ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from hpcsamp.methods import Method

if TYPE_CHECKING:
    from mpi4py import MPI


WORTH = 256
"""Passes of a batch with one sample that cost about as much as the measurement."""


class Passed:
    """Counts passes, by which a process finds when a measurement pays.

    A few predictions are over before it would be, so they are made in the way that is known.
    """

    def __init__(self) -> None:
        self.count = 0

    def enough(self, more: int) -> bool:
        """Whether to measure before ``more`` passes: the calls so far, with them, cost as much."""
        self.count += more
        return self.count >= WORTH


def settle(
    method: Method, x: torch.Tensor, mine: range, index: torch.Tensor, world: MPI.Comm
) -> None:
    """Measure what is fastest, unless that is known. Collective over the world.

    Parameters
    ----------
    x, index
        A batch, and where its items are in their split.
    mine
        Prediction samples of this rank.
    """
    with torch.no_grad(), method.predicting():
        if not method.settled:
            most = max(world.allgather(len(mine)))
            method.choose(
                x, mine, most, index=index, largest=lambda value: max(world.allgather(value))
            )
