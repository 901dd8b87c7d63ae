"""Multi-label classification: several labels for each item, each 0 or 1."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from hpcsamp.kinds import PARTS
from hpcsamp.losses.class_weights import ClassWeights, balanced
from hpcsamp.metrics import MultilabelMetrics
from hpcsamp.tasks.base import Found, Tally
from hpcsamp.tasks.labels import BALANCED, Labels, OfClasses
from hpcsamp.tasks.layout import ITEM, FileVariable, sample_axis
from hpcsamp.tasks.targets import Targets, TargetsError
from hpcsamp.tasks.views import View


class MultilabelPrediction(OfClasses):
    """Probabilities ``(B, L, 2)`` that each label is 0 or 1, and their uncertainties."""

    def lazy(self) -> Mapping[str, Callable[[], Tensor]]:
        """See :class:`Prediction`."""
        p, total = self.of, self.of.total
        return {
            "target": lambda: self.target,
            "probabilities": lambda: p.log_probabilities[..., 1].exp(),
            "label_total": lambda: total,
            "label_aleatoric": lambda: p.aleatoric,
            "label_epistemic": lambda: total - p.aleatoric,
            "total": lambda: total.sum(-1),
            "aleatoric": lambda: p.aleatoric.sum(-1),
            "epistemic": lambda: (total - p.aleatoric).sum(-1),
            "samples": lambda: p.own[..., 1].exp().movedim(0, 1),
        }

    def scores(self) -> Mapping[str, Tensor]:
        """See :class:`Prediction`."""
        total = self.of.total
        return {"total": total.sum(-1), "epistemic": (total - self.of.aleatoric).sum(-1)}


class MultilabelTally(Tally):
    """Metrics of each label and over all labels."""

    def __init__(self, names: Sequence[str], bins: int) -> None:
        self.names = list(names)
        self.metrics = MultilabelMetrics(len(self.names), bins)

    @property
    def states(self) -> list[Tensor]:
        """See :class:`Tally`."""
        return [self.metrics.state]

    def update(
        self,
        prediction: MultilabelPrediction,
        target: Tensor,
        weight: Tensor,
        mask: Tensor | None = None,
    ) -> None:
        """See :class:`Tally`."""
        p = prediction.of
        self.metrics.update(p.log_probabilities, target, weight, p.aleatoric, mask)

    def result(self, full: bool) -> Found:
        """See :class:`Tally`."""
        by_label = {k: v.tolist() for k, v in self.metrics.by_label().items()}
        rows = {
            "name": "label", "axis_units": "", "labels": self.names,
            "units": [""] * len(self.names), **by_label,
        }  # fmt: skip
        return Found(self.metrics.compute(), dict(self.metrics.reliability()), rows)


class Multilabel(Labels):
    """Multi-label classification: labels ``(L,)`` of 0 and 1; the outputs are their logits.

    Each label has its own predictive distribution: losses, metrics and files do not contain joint
    probabilities of several labels.

    Parameters
    ----------
    class_weights
        Factor of the loss of each label; or a pair of factors for each label, for 0 and for 1; or
        ``"balanced"``, which gives the ones and zeros of each label the same total weight.
    """

    usual_likelihood = "bernoulli"
    best: ClassVar[Mapping[str, int]] = {
        "nll": 1, "accuracy": -1, "exact_match": -1, "f1": -1, "f1_micro": -1, "brier": 1, "ece": 1,
    }  # fmt: skip
    parts = PARTS["multilabel"]
    prediction = MultilabelPrediction
    definitions: ClassVar[Mapping[str, str]] = {
        "accuracy": "fraction of labels predicted correctly (a label is predicted if its "
        "probability is above 1/2), mean over labels",
        "exact_match": "fraction of items with all labels predicted correctly",
        "f1": "F1 score of each label (0 where it neither occurs nor is predicted), mean over "
        "labels",
        "f1_micro": "F1 score of all labels together",
        "nll": "negative log predictive probability, summed over the labels of an item, nats",
        "brier": "mean squared difference of probability and label, 0 to 1, mean over labels",
        "ece": "calibration error of the probability of a label: mean |probability - frequency| "
        "over bins, weighted by items, mean over labels",
        "entropy": "total uncertainty: sum of the entropies of the labels, nats",
        "aleatoric": "aleatoric uncertainty: mean over samples of that sum, nats",
        "prevalence": "fraction of items that have the label",
    }

    def __init__(
        self,
        class_weights: list[float] | list[list[float]] | Literal["balanced"] | None = None,
    ) -> None:
        super().__init__()
        self.weights = class_weights

    def check(self, targets: Targets) -> None:
        """See :class:`Task`."""
        super().check(targets)
        if targets.classes != 2 or len(targets.shape) != 1:
            raise TargetsError(
                f"{self._setting} needs labels 0 and 1 of shape (L,), but the targets are {targets}"
            )

    def class_weights(self, targets: Targets) -> ClassWeights | None:
        """See :class:`Labels`."""
        if isinstance(self.weights, list) and self.weights:
            self._check_weights(self.weights, targets.shape[0], "labels")
            if isinstance(self.weights[0], int | float):
                return ClassWeights([[w, w] for w in self.weights])
            return ClassWeights(self.weights)
        return super().class_weights(targets)

    def balance(self, counts: Tensor) -> list[Any] | None:
        """See :class:`Task`; each label is counted separately."""
        if self.weights != BALANCED:
            return None
        found: list[Any] = balanced(counts).tolist()
        return found

    def tally(self, view: View) -> MultilabelTally:
        """See :class:`Task`."""
        return MultilabelTally(_names(view), view.bins)

    def variables(
        self, view: View, *, dtype: str, levels: Sequence[float], samples: int, values: bool
    ) -> tuple[dict[str, FileVariable], dict[str, FileVariable]]:
        """See :class:`Task`."""
        scales = {"label": FileVariable(("label",), "O", "", "", np.asarray(_names(view), object))}
        each, parts = (ITEM, "label"), ("total", "aleatoric", "epistemic")
        made = {
            "target": FileVariable(each, "<i8", "", "1: the item has the label"),
            "probabilities": FileVariable(
                each, dtype, "1", "predictive probability of the label, mean over the samples"
            ),
        }
        descriptions = ("entropy", "mean entropy of the samples", "total minus aleatoric")
        for name, of in zip(parts, descriptions, strict=True):
            made[f"label_{name}"] = FileVariable(each, dtype, "nat", f"{name} uncertainty: {of}")
            made[name] = FileVariable(
                (ITEM,), dtype, "nat", f"{name} uncertainty: {of}, summed over labels"
            )
        if samples:
            scales["sample"] = sample_axis(samples)
            made["samples"] = FileVariable(
                (ITEM, "sample", "label"), dtype, "1", "probabilities of every weight sample"
            )
        return scales, made


def _names(view: View) -> list[str]:
    """Return the names of the labels from the axis or the targets, or else their numbers."""
    axes = view.coordinates.axes
    if axes and axes[0].named:
        return [str(v) for v in axes[0].values]
    return list(view.targets.names) or [str(i) for i in range(view.targets.shape[0])]


def counts_of(target: Tensor, classes: int) -> Tensor:
    """Count the labels at each position of targets ``(n, ...)``: ``(*target.shape[1:], C)``."""
    flat = target.reshape(len(target), -1)
    found = torch.stack([(flat == c).sum(0) for c in range(classes)], -1).double()
    return found.reshape(*target.shape[1:], classes)
