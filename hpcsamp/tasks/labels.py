"""Shared base of the tasks with class labels: class weights, probabilities and their axes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from hpcsamp.errors import UsageError
from hpcsamp.losses.class_weights import ClassWeights, balanced
from hpcsamp.tasks.base import Prediction, Task
from hpcsamp.tasks.layout import FileVariable, class_axis
from hpcsamp.tasks.predictive import ClassPrediction, class_prediction
from hpcsamp.tasks.targets import Targets
from hpcsamp.tasks.views import View

#: Largest number of classes for which a confusion matrix is kept.
CONFUSION = 512

BALANCED = "balanced"


@dataclass
class OfClasses(Prediction):
    """Class probabilities, their uncertainties, and the labels.

    Attributes
    ----------
    of
        The predictive distributions, ``(B, ..., C)``.
    target
        ``(B, ...)`` labels.
    """

    of: ClassPrediction
    target: Tensor


class Labels(Task):
    """Base class of tasks whose targets are labels of ``C`` classes.

    Parameters
    ----------
    class_weights
        Factor of the loss of each class, or ``"balanced"``: ``N / (C n_c)`` from the training set,
        which gives every class the same total weight. The factors are not normalised, and metrics
        do not use them.
    """

    labels = True
    best: ClassVar[Mapping[str, int]] = {
        "nll": 1, "accuracy": -1, "brier": 1, "ece": 1, "mace": 1,
    }  # fmt: skip
    #: Class of the predictions of a batch.
    prediction: ClassVar[type[OfClasses]]

    def __init__(self, class_weights: list[float] | Literal["balanced"] | None = None) -> None:
        self.weights: list[Any] | str | None = class_weights

    def class_weights(self, targets: Targets) -> ClassWeights | None:
        """See :class:`Task`.

        Raises
        ------
        UsageError
            If the number of weights is not the number of classes, a weight is negative, all are 0,
            or ``"balanced"`` has not been replaced by factors yet.
        """
        if self.weights is None:
            return None
        if isinstance(self.weights, str):
            raise UsageError(
                f'{self.key}.class_weights = "{self.weights}" becomes a list of numbers when '
                f"hpcsamp train counts the labels of the training set; write numbers here"
            )
        self._check_weights(self.weights, len(self._weighted(targets)), "classes")
        return ClassWeights(self.weights)

    def balance(self, counts: Tensor) -> list[Any] | None:
        """See :class:`Task`; all positions of a target are counted together."""
        if self.weights != BALANCED:
            return None
        found: list[Any] = balanced(counts.reshape(-1, counts.shape[-1]).sum(0)).tolist()
        return found

    def predict(
        self,
        outputs: Tensor,
        target: Tensor,
        view: View,
        *,
        mask: Tensor | None = None,
        **others: Any,
    ) -> OfClasses:
        """See :class:`Task`."""
        return self.prediction(self.probabilities(outputs, target, view, mask), target)

    def probabilities(
        self, outputs: Tensor, target: Tensor, view: View, mask: Tensor | None
    ) -> ClassPrediction:
        """Compute the predictive class probabilities. Collective over the sample group."""
        known = target if mask is None else target.masked_fill(~mask, 0)
        classes = self.classes(view.targets)
        log_p = view.likelihood.log_probabilities(outputs, known, classes)
        return class_prediction(log_p, view.samples, view.group)

    @staticmethod
    def classes(targets: Targets) -> int:
        """Number of classes, ``C``."""
        assert targets.classes is not None
        return targets.classes

    def class_axis(self, view: View) -> FileVariable:
        """Return the axis of the classes, with their names if the dataset contains them."""
        return class_axis(self.classes(view.targets), view.targets.class_names)

    def _weighted(self, targets: Targets) -> range:
        """Range of the labels, each of which has a weight."""
        return range(self.classes(targets))

    def _check_weights(self, weights: list[Any], count: int, of: str) -> None:
        if len(weights) != count:
            raise UsageError(
                f"{self.key}.class_weights has {len(weights)} numbers, but the targets have "
                f"{count} {of}"
            )
        table = torch.tensor(weights, dtype=torch.float64)
        if not bool((table >= 0).all()) or not bool((table > 0).any()):
            raise UsageError(
                f"{self.key}.class_weights = {weights} must not be negative, and at least one must "
                f"be above 0"
            )


def names_of(targets: Targets, classes: int) -> list[str]:
    """Return the names of the classes, or their labels if they have no names."""
    return list(targets.class_names or map(str, range(classes)))
