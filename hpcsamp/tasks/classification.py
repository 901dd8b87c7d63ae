"""One label of several classes for each item."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from hpcsamp.metrics import ClassificationMetrics
from hpcsamp.tasks.base import ITEM, Found, Prediction, Tally, Targets, TargetsError, Task, View
from hpcsamp.tasks.layout import Variable, class_axis, sample_axis
from hpcsamp.tasks.predictive import ClassPrediction, class_prediction


@dataclass
class LabelPrediction(Prediction):
    """Class probabilities of items, their uncertainty, and the labels.

    Attributes
    ----------
    of
        The distribution.
    target
        ``(B,)`` labels.
    """

    of: ClassPrediction
    target: Tensor

    def lazy(self) -> Mapping[str, Callable[[], Tensor]]:
        """See :class:`Prediction`."""
        p, total = self.of, self.of.total
        return {
            "target": lambda: self.target,
            "probabilities": lambda: p.log_probabilities.exp(),
            "total": lambda: total,
            "aleatoric": lambda: p.aleatoric,
            "epistemic": lambda: total - p.aleatoric,
            "samples": lambda: p.own.exp().movedim(0, 1),
        }

    def scores(self) -> Mapping[str, Tensor]:
        """See :class:`Prediction`."""
        total = self.of.total
        best, predicted = self.of.log_probabilities.exp().max(1)
        return {
            "total": total,
            "epistemic": total - self.of.aleatoric,
            "confidence": 1 - best,
            "wrong": predicted != self.target,
        }


class LabelTally(Tally):
    """Metrics of class probabilities."""

    def __init__(self, classes: int, bins: int) -> None:
        self.metrics = ClassificationMetrics(classes, bins)

    @property
    def states(self) -> list[Tensor]:
        """See :class:`Tally`."""
        return [self.metrics.state]

    def update(
        self,
        prediction: LabelPrediction,
        target: Tensor,
        weight: Tensor,
        mask: Tensor | None = None,
    ) -> None:
        """See :class:`Tally`."""
        p = prediction.of
        known = weight if mask is None else weight * mask  # of weight 0: whatever the label is
        self.metrics.update(p.log_probabilities, target, known, p.aleatoric)

    def result(self, full: bool) -> Found:
        """See :class:`Tally`."""
        return Found(self.metrics.compute(), self.metrics.reliability())


class Classification(Task):
    """A label ``0 .. C - 1`` for each item; outputs are ``C`` logits."""

    labels = True
    usual_likelihood = "categorical"
    best: ClassVar[Mapping[str, int]] = {
        "nll": 1, "accuracy": -1, "brier": 1, "ece": 1, "mace": 1,
    }  # fmt: skip
    scores = ("total", "epistemic", "confidence", "wrong")
    told_apart = ("total", "epistemic", "confidence")
    parts = ("reliability", "risk-coverage", "uncertain-items")

    def check(self, targets: Targets) -> None:
        """See :class:`Task`."""
        super().check(targets)
        if targets.shape:
            raise TargetsError(
                f"{self._said} needs one label for each item, but targets are {targets}; "
                'task.kind = "segmentation" has one for each pixel or step'
            )

    def values(self, targets: Targets) -> int:
        """See :class:`Task`."""
        assert targets.classes is not None
        return targets.classes

    def predict(
        self, outputs: Tensor, target: Tensor, view: View, **others: Any
    ) -> LabelPrediction:
        """See :class:`Task`."""
        log_p = view.likelihood.log_probabilities(outputs, target, self.values(view.targets))
        return LabelPrediction(class_prediction(log_p, view.samples, view.group), target)

    def tally(self, view: View) -> LabelTally:
        """See :class:`Task`."""
        return LabelTally(self.values(view.targets), view.bins)

    def variables(
        self, view: View, *, dtype: str, levels: Sequence[float], samples: int, values: bool
    ) -> tuple[dict[str, Variable], dict[str, Variable]]:
        """See :class:`Task`."""
        scales = {"class": class_axis(self.values(view.targets))}
        said = "uncertainty: "
        made = {
            "target": Variable((ITEM,), "<i8", "", "true class"),
            "probabilities": Variable(
                (ITEM, "class"), dtype, "1", "predictive probability, mean over the samples"
            ),
            "total": Variable((ITEM,), dtype, "nat", f"total {said}entropy of the predictive"),
            "aleatoric": Variable(
                (ITEM,), dtype, "nat", f"aleatoric {said}mean entropy of the samples"
            ),
            "epistemic": Variable(
                (ITEM,), dtype, "nat", f"epistemic {said}mutual information of class and weights"
            ),
        }
        if samples:
            scales["sample"] = sample_axis(samples)
            made["samples"] = Variable(
                (ITEM, "sample", "class"), dtype, "1", "probabilities of every weight sample"
            )
        return scales, made
