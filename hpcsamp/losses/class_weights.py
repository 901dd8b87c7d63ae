"""Weights of values by their labels: rare classes may count more."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class ClassWeights:
    """The weight of each value of a target, looked up by its label.

    They multiply the losses of values and are not normalised: with a mean of 1 over the training
    set, data and KL keep their balance.

    Parameters
    ----------
    table
        ``(C,)`` weights of the classes, or ``(V, C)`` for each value of an item of its own.
    """

    def __init__(self, table: Sequence[float] | Sequence[Sequence[float]]) -> None:
        self.table = torch.tensor(table, dtype=torch.float64)

    def __call__(self, target: Tensor) -> Tensor:
        """``(B, ...)`` weights of labels ``(B, ...)``."""
        table = self.table.to(target.device, torch.get_default_dtype())
        if table.dim() == 1:
            return table[target]
        return table[torch.arange(len(table), device=target.device), target]


def balanced(counts: Tensor) -> Tensor:
    """Weights by which each class has the same part in a loss: ``N / (C n_c)``, with a mean of 1.

    Parameters
    ----------
    counts
        ``(..., C)`` how often each class occurs; one that does not occur has the weight 0.
    """
    occurs = (counts > 0).sum(-1, keepdim=True)
    return torch.where(counts > 0, counts.sum(-1, keepdim=True) / (occurs * counts), 0.0)
