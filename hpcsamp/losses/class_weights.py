"""Weights of values by their labels, e.g. to give rare classes more weight."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class ClassWeights:
    """The weight of each value of a target, looked up by its label.

    The weights multiply the losses of values and are not normalised: with a mean of 1 over the
    training set, the balance of data term and KL stays the same.

    Parameters
    ----------
    table
        ``(C,)`` weights of the classes, or ``(V, C)`` with separate weights for each value of an
        item.
    """

    def __init__(self, table: Sequence[float] | Sequence[Sequence[float]]) -> None:
        self.table = torch.tensor(table, dtype=torch.float64)

    def __call__(self, target: Tensor) -> Tensor:
        """Return ``(B, ...)`` weights of labels ``(B, ...)``."""
        table = self.table.to(target.device, torch.get_default_dtype())
        if table.dim() == 1:
            return table[target]
        return table[torch.arange(len(table), device=target.device), target]


def balanced(counts: Tensor) -> Tensor:
    """Weights that give all classes an equal share of the loss, ``N / (C n_c)``, with a mean of 1.

    Parameters
    ----------
    counts
        ``(..., C)`` number of items of each class; a class without items has weight 0.
    """
    occurs = (counts > 0).sum(-1, keepdim=True)
    return torch.where(counts > 0, counts.sum(-1, keepdim=True) / (occurs * counts), 0.0)
