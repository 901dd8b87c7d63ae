"""Confusion matrix, and what follows from it."""

from __future__ import annotations

import torch
from torch import Tensor

from hpcsamp.metrics.sums import Sums


class Confusion(Sums):
    """How often items of each class are predicted as each class.

    Parameters
    ----------
    classes
        ``C``.
    """

    def __init__(self, classes: int) -> None:
        super().__init__(("items",), {"counts": (classes, classes)})
        self.classes = classes

    def update(self, predicted: Tensor, target: Tensor, weight: Tensor) -> None:
        """Add labels of any shape, with weights of that shape; those of weight 0 do not count."""
        keep = weight > 0
        w, t, p = weight[keep].double(), target[keep].long(), predicted[keep].long()
        table = torch.zeros(self.classes**2, dtype=torch.float64, device=w.device)
        table.index_add_(0, t * self.classes + p, w)
        self.add({"items": w.sum()}, {"counts": table})

    def table(self) -> Tensor:
        """``(C, C)`` weights by true and predicted class."""
        return self.read()[1]["counts"]

    def iou(self) -> Tensor:
        """``(C,)`` intersection over union; NaN for classes that neither occur nor are predicted.

        (The Jaccard index of each class: right ones over those that are of the class, or predicted
        as it, or both.)
        """
        table = self.table()
        right = table.diagonal()
        return right / (table.sum(0) + table.sum(1) - right)
