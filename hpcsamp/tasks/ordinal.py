"""Ordinal regression: one of several ordered classes for each item."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from hpcsamp.kinds import PARTS
from hpcsamp.metrics import OrdinalMetrics
from hpcsamp.tasks.base import Found
from hpcsamp.tasks.classification import Classification, LabelPrediction, LabelTally
from hpcsamp.tasks.views import View


class RankTally(LabelTally):
    """Metrics of classes, and of the distance between predicted and true ranks."""

    def __init__(self, view: View) -> None:
        super().__init__(view.targets, view.bins)
        self.ranks = OrdinalMetrics()

    @property
    def states(self) -> list[Tensor]:
        """See :class:`Tally`."""
        return [*super().states, self.ranks.state]

    def update(
        self,
        prediction: LabelPrediction,
        target: Tensor,
        weight: Tensor,
        mask: Tensor | None = None,
    ) -> None:
        """See :class:`Tally`."""
        super().update(prediction, target, weight, mask)
        known = weight if mask is None else weight * mask
        self.ranks.update(prediction.of.log_probabilities, target, known)

    def result(self, full: bool) -> Found:
        """See :class:`Tally`."""
        found = super().result(full)
        found.metrics = self.ranks.compute() | found.metrics
        return found


class Ordinal(Classification):
    """Ordinal regression: a rank ``0 .. C - 1`` for each item, from ``C - 1`` cumulative logits.

    See :class:`~hpcsamp.losses.CumulativeLogits`.
    """

    usual_likelihood = "cumulative_logits"
    parts = PARTS["ordinal"]
    best: ClassVar[Mapping[str, int]] = {**Classification.best, "mae_rank": 1, "rps": 1}
    definitions: ClassVar[Mapping[str, str]] = {
        "mae_rank": "mean absolute difference between the true rank and the predictive median",
        "rps": "ranked probability score: sum over thresholds of squared differences between the "
        "predictive and the true cumulative distribution",
    }

    def tally(self, view: View) -> RankTally:
        """See :class:`Task`."""
        return RankTally(view)
