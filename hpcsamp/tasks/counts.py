"""Counts: whole numbers 0, 1, 2, ... for each item."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from hpcsamp.kinds import PARTS, whole_numbers
from hpcsamp.metrics.sums import Sums
from hpcsamp.tasks.base import Found, Tally
from hpcsamp.tasks.raw import RawTally, has_moments
from hpcsamp.tasks.regression import NumberPrediction, NumberTally, Regression
from hpcsamp.tasks.targets import Targets, TargetsError
from hpcsamp.tasks.views import View


def deviance(target: Tensor, mean: Tensor) -> Tensor:
    """Poisson deviance of each count, ``2 (t log(t / m) - t + m)``, with its limits at 0."""
    return 2 * (torch.xlogy(target, target) - torch.xlogy(target, mean) - (target - mean))


class CountTally(NumberTally):
    """Metrics of values and the Poisson deviance."""

    def __init__(self, view: View) -> None:
        super().__init__(view)
        self.deviance = Sums(("items", "deviance"), {})

    @property
    def states(self) -> list[Tensor]:
        """See :class:`Tally`."""
        return [*super().states, self.deviance.state]

    def update(
        self,
        prediction: NumberPrediction,
        target: Tensor,
        weight: Tensor,
        mask: Tensor | None = None,
    ) -> None:
        """See :class:`Tally`."""
        super().update(prediction, target, weight, mask)
        each = weight.double().reshape(-1, *[1] * (target.dim() - 1)).expand(target.shape)
        known = each > 0 if mask is None else (each > 0) & mask
        t, m, w = target[known].double(), prediction.of.mean[known].double(), each[known]
        self.deviance.add({"items": w.sum(), "deviance": (w * deviance(t, m)).sum()}, {})

    def result(self, full: bool) -> Found:
        """See :class:`Tally`."""
        found = super().result(full)
        sums, _ = self.deviance.read()
        found.metrics = {"deviance": sums["deviance"] / sums["items"]} | found.metrics
        return found


class Counts(Regression):
    """Counts of any shape; the outputs are log rates, or the parameters of another likelihood.

    Use ``likelihood.name = "negative_binomial"`` for counts whose variance exceeds their mean.
    """

    usual_likelihood = "poisson"
    parts = PARTS["counts"]
    best: ClassVar[Mapping[str, int]] = {**Regression.best, "deviance": 1}
    definitions: ClassVar[Mapping[str, str]] = {
        "deviance": "Poisson deviance of the predictive mean m: mean of 2 (t log(t / m) - t + m)",
        "nll": "negative log predictive probability, nats per item",
    }

    def tally(self, view: View) -> Tally:
        """See :class:`Task`."""
        return CountTally(view) if has_moments(view.likelihood) else RawTally()

    def check(self, targets: Targets) -> None:
        """See :class:`Task`."""
        super().check(targets)
        if targets.standardised:
            raise TargetsError(
                f"{self._setting} needs counts that are not scaled, but the targets are "
                f"standardised; ingest the set without --normalize-y"
            )

    def check_values(self, y: np.ndarray, where: str) -> None:
        """See :class:`Task`."""
        whole_numbers(y, where)
