"""Regression: numeric targets for each item, such as one value, a series or a field."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from hpcsamp.errors import UsageError
from hpcsamp.kinds import PARTS
from hpcsamp.losses import Likelihood, Samples
from hpcsamp.metrics import RegressionMetrics
from hpcsamp.tasks.base import Found, Prediction, Tally, Task
from hpcsamp.tasks.components import normal_components
from hpcsamp.tasks.gathered import of_all_samples
from hpcsamp.tasks.layout import ITEM, FileVariable, sample_axis
from hpcsamp.tasks.plausible import ConstantNormal, doubt
from hpcsamp.tasks.predictive import ValuePrediction, value_prediction
from hpcsamp.tasks.raw import RawPrediction, RawTally, has_moments, predict_raw, raw_variables
from hpcsamp.tasks.series import BySeries
from hpcsamp.tasks.views import View

#: Metrics that are left out after an epoch.
_ONLY_FULL = (
    "bias", "nll_physical", "spread_epistemic", "sharpness", "spread_skill", "coverage_80", "mace"
)  # fmt: skip
_IN_UNITS = (
    "rmse", "mae", "bias", "crps", "spread", "spread_epistemic", "sharpness",
)  # fmt: skip


@dataclass
class NumberPrediction(Prediction):
    """Moments, quantiles and CRPS of the predictive distribution of numeric targets.

    Attributes
    ----------
    of
        The predictive distribution.
    target
        ``(B, ...)`` targets.
    view
        The view, which has the units of the target.
    crps
        ``(B, ...)``; None if it was not requested.
    quantiles
        ``(Q, B, ...)``.
    """

    of: ValuePrediction
    target: Tensor
    view: View
    crps: Tensor | None
    quantiles: Tensor

    def lazy(self) -> Mapping[str, Callable[[], Tensor]]:
        """See :class:`Prediction`; values have the units of the target."""
        p, units = self.of, self.view.units
        total = p.aleatoric + p.epistemic
        over_item = self._over_item
        return {
            "target": lambda: units.value(self.target),
            "mean": lambda: units.value(p.mean),
            "std": lambda: units.spread(total.double().sqrt()),
            "std_aleatoric": lambda: units.spread(p.aleatoric.double().sqrt()),
            "std_epistemic": lambda: units.spread(p.epistemic.double().clamp_min(0).sqrt()),
            "total": lambda: over_item(total),
            "aleatoric": lambda: over_item(p.aleatoric),
            "epistemic": lambda: over_item(p.epistemic),
            "error": lambda: self._error().sqrt(),
            "quantiles": lambda: torch.stack([units.value(q) for q in self.quantiles], 1),
            "samples": lambda: torch.stack([units.value(m) for m in p.own_means], 1),
        } | ({} if units.series is None else {"series_std": self._series_std})

    def scores(self) -> Mapping[str, Tensor]:
        """See :class:`Prediction`."""
        p = self.of
        return {"total": _mean(p.aleatoric + p.epistemic), "epistemic": _mean(p.epistemic)}

    def _series_std(self) -> Tensor:
        """Standard deviation by which the series of each item was divided, ``(B, ...)``."""
        own = self.view.units.series
        assert own is not None
        std = torch.from_numpy(own.std[own.of]).to(self.target.device)
        return std.reshape(-1, *[1] * (self.target.dim() - 1)).expand(self.target.shape)

    def _over_item(self, variance: Tensor) -> Tensor:
        """Mean variance over the values of each item, ``(B,)``, in squared standard deviations."""
        units = self.view.units
        return self._mean_of_item(units.relative(units.relative(variance)))

    def _error(self) -> Tensor:
        """Mean squared error over the known values of each item, ``(B,)``; NaN if none is known."""
        square, known = (self.of.mean - self.target).double().square(), ~self.target.isnan()
        if known.all():
            return self._over_item(square)
        found = self._over_item(torch.where(known, square, 0.0))
        return found / self._mean_of_item(known.double())

    def _mean_of_item(self, x: Tensor) -> Tensor:
        """Mean over the values of each item, ``(B,)``, weighted by the area of grid cells."""
        if self.view.weights is not None:
            x = x * self.view.weights.to(x.device)
        return x.flatten(1).mean(1) if x.dim() > 1 else x


class NumberTally(Tally):
    """Metrics of predictive distributions, and of a constant distribution as a baseline."""

    def __init__(self, view: View) -> None:
        assert view.dataset is not None
        units = view.units
        self.view = view
        several = units.series is not None  # then each item has a scale of its own
        options: dict[str, Any] = {
            "rows": len(units.scale),
            "weights": view.weights,
            "scale": None if several else units.scale.tolist(),
            "mixed": units.mixed,
            "typical": units.typical.tolist(),
            "samples": view.samples,
            "alone": isinstance(view.likelihood, Samples),
        }
        self.metrics = RegressionMetrics(**options)
        self.series = BySeries(units.series.names if units.series else (), **options)
        self.constant = ConstantNormal(view.dataset, view.target)

    @property
    def states(self) -> list[Tensor]:
        """See :class:`Tally`."""
        return [self.metrics.state, self.constant.state, *self.series.states]

    def update(
        self,
        prediction: NumberPrediction,
        target: Tensor,
        weight: Tensor,
        mask: Tensor | None = None,
    ) -> None:
        """See :class:`Tally`."""
        p, units = prediction.of, prediction.view.units
        moments = p.mean, p.aleatoric + p.epistemic, target
        more: dict[str, Any] = {
            "log_density": p.log_density,
            "pit": p.pit,
            "crps": prediction.crps,
            "epistemic": p.epistemic,
            "known": mask,
            "scale": None if units.series is None else torch.from_numpy(units.scale),
        }
        self.metrics.update(*moments, weight, **more)
        if units.series is not None:
            self.series.update(units.series.of, weight, *moments, **more)
        self.constant.update(target, weight, mask)

    def result(self, full: bool) -> Found:
        """See :class:`Tally`."""
        units, axes = self.view.units, self.view.coordinates.axes
        rows: dict[str, Any] = {}
        if axes and len(units.scale) > 1:
            axis = axes[0]
            labels = [str(v) if axis.named else float(v) for v in axis.values]
            rows = {"name": axis.name, "axis_units": axis.units, "labels": labels}
            rows["units"] = units.by_row
            rows |= self.metrics.by_row()
        found = self.metrics.compute()
        units_by_metric = {k: units.overall for k in _IN_UNITS if k in found and units.overall}
        return Found(
            {k: v for k, v in found.items() if full or k not in _ONLY_FULL},
            self.metrics.reliability(),
            rows,
            units_by_metric,
            unattained=self.metrics.unattained(),
            doubt=doubt(found, self.constant.nll()),
            series=self.series.table() if full and units.series is not None else {},
        )


class Regression(Task):
    """Regression: numeric targets of any shape; the likelihood interprets the outputs.

    A likelihood that implements ``log_prob`` but no mean and variance is evaluated by its log
    density, and a predictions file contains the outputs of the samples.
    """

    usual_likelihood = "learned_gaussian"
    best: ClassVar[Mapping[str, int]] = {"nll": 1, "rmse": 1, "mae": 1, "crps": 1}
    parts = PARTS["regression"]

    def predict(
        self,
        outputs: Tensor,
        target: Tensor,
        view: View,
        *,
        mask: Tensor | None = None,
        full: bool = False,
        levels: Sequence[float] = (),
    ) -> NumberPrediction | RawPrediction:
        """See :class:`Task`."""
        if not has_moments(view.likelihood):
            return predict_raw(outputs, target, view, mask)
        normal = normal_components(view.likelihood)
        if levels and not normal:
            raise UsageError(
                f"quantiles can be computed for mixtures of normal distributions, not of "
                f"{type(view.likelihood).__name__}: leave them out (--quantiles none)"
            )
        p = value_prediction(outputs, target, view.samples, view.group, view.likelihood, mask)
        crps, quantiles = of_all_samples(
            p.own_means,
            p.own_stds,
            view.counts,
            view.group,
            target=target if full and normal else None,
            levels=levels,
            alone=isinstance(view.likelihood, Samples),
        )
        return NumberPrediction(p, target, view, crps, quantiles)

    def tally(self, view: View) -> Tally:
        """See :class:`Task`."""
        return NumberTally(view) if has_moments(view.likelihood) else RawTally()

    def has_quantiles(self, likelihood: Likelihood) -> bool:
        """See :class:`Task`."""
        return normal_components(likelihood)

    def resolution(self, view: View, score: str = "") -> float:
        """See :class:`Task`; for variances the size is relative to the variance of the targets."""
        return 1e-13 * float(view.units.typical.min()) ** 2

    def variables(
        self, view: View, *, dtype: str, levels: Sequence[float], samples: int, values: bool
    ) -> tuple[dict[str, FileVariable], dict[str, FileVariable]]:
        """See :class:`Task`."""
        if not has_moments(view.likelihood):
            return raw_variables(view, dtype, samples)
        units = view.units
        scales: dict[str, FileVariable] = {}
        what = "variance of values (in squared standard deviations), mean over an item"
        made = {
            "total": FileVariable((ITEM,), dtype, "", f"total uncertainty: predictive {what}"),
            "aleatoric": FileVariable(
                (ITEM,), dtype, "", f"aleatoric uncertainty: mean noise {what}"
            ),
            "epistemic": FileVariable(
                (ITEM,), dtype, "", f"epistemic uncertainty: sample means, {what}"
            ),
            "error": FileVariable(
                (ITEM,), dtype, "", "root mean squared error of an item, standard deviations"
            ),
        }
        if not values:
            return scales, made
        unit = "" if units.mixed else units.name
        for axis in view.coordinates.axes:
            kind = "<f8" if not axis.named else "O"
            scales[axis.name] = FileVariable((axis.name,), kind, axis.units, "", axis.values)
        place = (ITEM, *(a.name for a in view.coordinates.axes))
        made |= {
            "target": FileVariable(place, dtype, unit, "observed value"),
            "mean": FileVariable(place, dtype, unit, "predictive mean"),
            "std": FileVariable(
                place, dtype, unit, "predictive standard deviation, noise included"
            ),
            "std_aleatoric": FileVariable(
                place, dtype, unit, "square root of the mean noise variance of the samples"
            ),
            "std_epistemic": FileVariable(
                place, dtype, unit, "standard deviation of the samples' means"
            ),
        }
        if levels:
            at = np.asarray(levels, "<f8")
            scales["quantile"] = FileVariable(("quantile",), "<f8", "", "probability", at)
            made["quantiles"] = FileVariable(
                (ITEM, "quantile", *place[1:]), dtype, unit,
                "exact quantiles of the predictive mixture",
            )  # fmt: skip
        if samples:
            scales["sample"] = sample_axis(samples)
            made["samples"] = FileVariable(
                (ITEM, "sample", *place[1:]), dtype, unit,
                "mean of every weight sample, without noise",
            )  # fmt: skip
        return scales, made


def _mean(variance: Tensor) -> Tensor:
    return variance.double().flatten(1).mean(1) if variance.dim() > 1 else variance
