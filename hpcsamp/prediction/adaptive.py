"""Adaptive conformal intervals of a split: each item adapts the thresholds of later items.

The scores of all items are collected while the split is predicted; then the thresholds are computed
from them in the order of the items (:mod:`hpcsamp.calibration.adaptive`), on every rank.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hpcsamp.calibration.adaptive import covered, thresholds
from hpcsamp.calibration.intervals import Base
from hpcsamp.calibration.record import Conformal
from hpcsamp.errors import UsageError
from hpcsamp.grid import together
from hpcsamp.prediction.calibration_fit import in_time_order
from hpcsamp.prediction.calibration_set import times_of
from hpcsamp.tasks.coordinates import Coordinates
from hpcsamp.tasks.several import in_file

if TYPE_CHECKING:
    from hpcsamp.prediction.evaluator import Evaluation, Evaluator, Sink
    from hpcsamp.prediction.posterior import Posterior
    from hpcsamp.tasks import View

PARTS = ("conformal_score", "conformal_lower", "conformal_upper", "conformal_scale")
"""Arrays of a prediction that adaptive intervals need."""
HALF = 0.5 / 60
"""Minutes by which times may differ by rounding."""
KEEP_BYTES = 1 << 30
"""Largest number of bytes of the arrays of a split."""


@dataclass(frozen=True)
class _Target:
    """A target with adaptive intervals: its names in metrics and files, its view and settings."""

    start: str
    names: Mapping[str, str]
    view: View
    of: Conformal


class AdaptiveIntervals:
    """Collects the scores of a split, and computes its adaptive intervals at the end.

    Parameters
    ----------
    posterior, evaluator, view
        Posterior to use, evaluator of the split, and description of its predictions.

    Raises
    ------
    DataError, UsageError
        If items are not in time order, or their scores need too much memory; on every rank.
    """

    def __init__(self, posterior: Posterior, evaluator: Evaluator, view: View) -> None:
        self._evaluator, self._targets = evaluator, list[_Target]()
        used = posterior.recalibration is not None and not posterior.notes
        entry = posterior.recalibration if used else None
        dataset = evaluator.dataset
        with together(posterior.topology.world):
            for name, found in (entry.targets if entry is not None else {}).items():
                of = found.conformal
                if of is None or of.adaptive is None:
                    continue
                part = view.parts.get(name, view)
                where = f"{dataset.path}, {dataset.split}"
                in_time_order(times_of(part.coordinates), where, part.units.series is not None)
                names = {k: in_file(name, k) if view.parts else k for k in (*PARTS, "interval")}
                start = f"{name}/" if view.parts else ""
                self._targets.append(_Target(start, names, part, of))
            each = [(dataset.count, *t.of.threshold.shape) for t in self._targets]
            size = sum(8 * len(PARTS) * int(np.prod(shape)) for shape in each)
            if size > KEEP_BYTES:
                raise UsageError(
                    f"adaptive intervals of the {dataset.count} items of {dataset.split} need "
                    f"{size / 1e9:.3g} GB on every rank, but at most {KEEP_BYTES / 1e9:.3g} GB "
                    f"are used; recalibrate without --adaptive"
                )
        self._kept = {
            target.names[part]: np.zeros(shape)
            for target, shape in zip(self._targets, each, strict=True)
            for part in PARTS
        }

    @property
    def intervals(self) -> set[str]:
        """Names of the arrays that are known only after all items have been predicted."""
        return {target.names["interval"] for target in self._targets}

    def wanted(self, names: list[str]) -> list[str]:
        """Arrays to compute for each batch of a file that contains the arrays ``names``."""
        return [n for n in names if n not in self.intervals] + list(self._kept)

    def sink(self, others: Sink) -> Sink:
        """Return a sink that keeps the scores and passes all other arrays on."""

        def keep(rows: np.ndarray, arrays: dict[str, np.ndarray]) -> None:
            for name, values in self._kept.items():
                values[rows] = arrays.pop(name)
            others(rows, arrays)

        return keep

    def finish(self, found: Evaluation) -> dict[str, np.ndarray]:
        """Compute the intervals ``(N, 2, ...)`` by name, and add their metrics. Collective."""
        made = {}
        if self._evaluator.topology.data_size > 1:
            for values in self._kept.values():
                self._evaluator.collectives.sum_(torch.from_numpy(values), "data")
        for target in self._targets:
            scores, lower, upper, scale = (self._kept[target.names[part]] for part in PARTS)
            limits = _limits(scores, target.of, known_before(target.view.coordinates))
            base = Base(*(torch.from_numpy(x) for x in (lower, upper, scale)))
            low, high = (x.numpy() for x in base.interval(limits))
            made[target.names["interval"]] = np.stack([low, high], 1)
            known = ~np.isnan(scores)
            inside = covered(scores, limits)[known]
            units = target.view.units
            rows = (-1, *[1] * (low.ndim - 2)) if low.ndim > 1 else ()
            width = (high - low) / (units.scale.reshape(rows) if units.mixed else 1.0)
            self._add(found, target, float(inside.mean()), float(np.median(width)))
        return made

    def _add(self, found: Evaluation, of: _Target, coverage: float, width: float) -> None:
        items = found.metrics.pop("items")
        found.metrics[f"{of.start}adaptive_coverage"] = coverage
        found.metrics[f"{of.start}adaptive_width"] = width
        found.metrics["items"] = items  # at the end
        if of.view.units.overall:
            found.units[f"{of.start}adaptive_width"] = of.view.units.overall
        found.definitions[f"{of.start}adaptive_coverage"] = (
            f"fraction of targets inside their adaptive conformal interval; the intended fraction "
            f"is {of.of.level:g}"
        )
        found.definitions[f"{of.start}adaptive_width"] = "median width of the adaptive intervals"


def known_before(of: Coordinates) -> np.ndarray | None:
    """Number of first items whose value is known when an item is predicted, by lead time.

    Returns
    -------
    ndarray or None
        ``(leads, N)``: the value of item j at a lead time is known from item t on if
        ``time_j + lead <= time_t``, whatever the steps between items are. None if the set does not
        have lead times and the times of its items, both in minutes.
    """
    time, lead = times_of(of), of.axes[0] if len(of.axes) == 1 else None
    units = [unit for _, unit in of.per_item.values() if unit.startswith("minutes since")]
    if time is None or lead is None or lead.units != "min" or not units:
        return None
    leads = lead.values.astype(float)
    return np.stack([np.searchsorted(time + ahead, time + HALF, side="right") for ahead in leads])


def _limits(scores: np.ndarray, of: Conformal, known: np.ndarray | None) -> Any:
    """Thresholds of all items, ``(N, ...)``; each value of an item is a separate series."""
    assert of.adaptive is not None
    flat = scores.reshape(len(scores), -1)
    found = np.empty_like(flat)
    for v, lag in enumerate(of.adaptive.lag.tolist()):
        past = of.adaptive.past[:, v]
        found[:, v] = thresholds(
            past, flat[:, v], of.level, rate=of.adaptive.rate, lag=lag,
            known=None if known is None else known[v],
        )  # fmt: skip
    return found.reshape(scores.shape)
