"""Confusion matrix and intersection over union."""

from __future__ import annotations

import torch
from torch import Tensor

from hpcsamp.metrics.sums import Sums


class Confusion(Sums):
    """Confusion matrix: total weight of the items by true and predicted class.

    Parameters
    ----------
    classes
        Number of classes, ``C``.
    """

    def __init__(self, classes: int) -> None:
        super().__init__(("items",), {"counts": (classes, classes)})
        self.classes = classes

    def update(self, predicted: Tensor, target: Tensor, weight: Tensor) -> None:
        """Add labels and their weights, all in the same shape; labels of weight 0 are ignored."""
        keep = weight > 0
        w, t, p = weight[keep].double(), target[keep].long(), predicted[keep].long()
        table = torch.zeros(self.classes**2, dtype=torch.float64, device=w.device)
        table.index_add_(0, t * self.classes + p, w)
        self.add({"items": w.sum()}, {"counts": table})

    def table(self) -> Tensor:
        """Confusion matrix ``(C, C)``: weights by true and predicted class."""
        return self.read()[1]["counts"]

    def iou(self) -> Tensor:
        """Intersection over union of each class, ``(C,)``: its Jaccard index.

        It is the number of correct predictions of a class divided by the number of items that have
        the class, are predicted as it, or both; NaN for classes that neither occur nor are
        predicted.
        """
        table = self.table()
        right = table.diagonal()
        return right / (table.sum(0) + table.sum(1) - right)
