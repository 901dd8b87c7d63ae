"""Classification: one class label for each item."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from hpcsamp.kinds import PARTS
from hpcsamp.metrics import ClassificationMetrics, Confusion
from hpcsamp.tasks.base import Found, Tally
from hpcsamp.tasks.labels import CONFUSION, Labels, OfClasses, names_of
from hpcsamp.tasks.layout import ITEM, FileVariable, sample_axis
from hpcsamp.tasks.targets import Targets, TargetsError
from hpcsamp.tasks.views import View


class LabelPrediction(OfClasses):
    """Class probabilities ``(B, C)``, their uncertainties, and the labels ``(B,)``."""

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

    def __init__(self, targets: Targets, bins: int) -> None:
        classes = Labels.classes(targets)
        self.metrics = ClassificationMetrics(classes, bins)
        self.confusion = Confusion(classes if classes <= CONFUSION else 1)
        self.names = names_of(targets, classes)

    @property
    def states(self) -> list[Tensor]:
        """See :class:`Tally`."""
        return [self.metrics.state, self.confusion.state]

    def update(
        self,
        prediction: LabelPrediction,
        target: Tensor,
        weight: Tensor,
        mask: Tensor | None = None,
    ) -> None:
        """See :class:`Tally`."""
        p = prediction.of
        known = weight if mask is None else weight * mask  # items of weight 0 may have any label
        self.metrics.update(p.log_probabilities, target, known, p.aleatoric)
        if self.metrics.classes <= CONFUSION:
            self.confusion.update(p.log_probabilities.argmax(-1), target, known)

    def result(self, full: bool) -> Found:
        """See :class:`Tally`."""
        tables: dict[str, Any] = self.metrics.reliability()
        if full and self.metrics.classes <= CONFUSION:
            tables["confusion"] = self.confusion.table().tolist()
            tables["class_names"] = self.names
        return Found(self.metrics.compute(), tables)


class Classification(Labels):
    """Classification: a label ``0 .. C - 1`` for each item; the outputs are ``C`` logits."""

    usual_likelihood = "categorical"
    scores = ("total", "epistemic", "confidence", "wrong")
    told_apart = ("total", "epistemic", "confidence")
    parts = PARTS["classification"]
    prediction = LabelPrediction

    def check(self, targets: Targets) -> None:
        """See :class:`Task`."""
        super().check(targets)
        if targets.shape:
            raise TargetsError(
                f"{self._setting} needs one label for each item, but the targets are {targets}; "
                'task.kind = "segmentation" takes one label for each pixel or step'
            )

    def tally(self, view: View) -> LabelTally:
        """See :class:`Task`."""
        return LabelTally(view.targets, view.bins)

    def variables(
        self, view: View, *, dtype: str, levels: Sequence[float], samples: int, values: bool
    ) -> tuple[dict[str, FileVariable], dict[str, FileVariable]]:
        """See :class:`Task`."""
        scales = {"class": self.class_axis(view)}
        made = {
            "target": FileVariable((ITEM,), "<i8", "", "true class"),
            "probabilities": FileVariable(
                (ITEM, "class"), dtype, "1", "predictive probability, mean over the samples"
            ),
        }
        for name, description in (
            ("total", "entropy of the predictive distribution"),
            ("aleatoric", "mean entropy of the samples"),
            ("epistemic", "mutual information of class and weights"),
        ):
            made[name] = FileVariable((ITEM,), dtype, "nat", f"{name} uncertainty: {description}")
        if samples:
            scales["sample"] = sample_axis(samples)
            made["samples"] = FileVariable(
                (ITEM, "sample", "class"), dtype, "1", "probabilities of every weight sample"
            )
        return scales, made
