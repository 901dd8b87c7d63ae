"""A task with recalibrated predictions: scaled class probabilities, conformal sets and intervals.

It wraps the task of a run and uses the arrays of its predictions: ``probabilities`` of a label, or
``mean``, ``std`` and quantiles of values. So it works for any task with these arrays.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hpcsamp.calibration import intervals, sets
from hpcsamp.calibration.record import Conformal, Recalibration
from hpcsamp.losses import Likelihood
from hpcsamp.tasks.base import Found, Prediction, Tally, Task
from hpcsamp.tasks.labels import OfClasses
from hpcsamp.tasks.layout import ITEM, FileVariable
from hpcsamp.tasks.predictive import entropy
from hpcsamp.tasks.several import Several
from hpcsamp.tasks.views import View

BOUNDS = "bound"
"""Axis of the ends of an interval; underscores are added if a target has an axis of this name."""


def recalibrated(task: Task, found: Mapping[str, Recalibration]) -> Task:
    """Return a task with the recalibration of each target by its name, ``y`` for a single one."""
    if not isinstance(task, Several):
        return Recalibrated(task, found["y"])
    other = copy.copy(task)
    outputs = {
        name: replace(of, task=Recalibrated(of.task, found[name])) if name in found else of
        for name, of in task.outputs.items()
    }
    other.outputs = outputs
    other.definitions = {
        **task.definitions,
        **{f"{n}/{k}": v for n, of in outputs.items() for k, v in of.task.definitions.items()},
    }
    return other


def quantile_levels(of: Conformal | None) -> tuple[float, ...]:
    """Levels of the quantiles that a conformal score needs."""
    if of is None or of.score != "cqr":
        return ()
    return 0.5 * (1 - of.level), 0.5 * (1 + of.level)


@dataclass
class RecalibratedPrediction(Prediction):
    """A prediction with conformal sets or intervals.

    Attributes
    ----------
    of
        The prediction, with scaled probabilities.
    conformal
        Conformal score and threshold; None if neither sets nor intervals are added.
    chosen
        Positions, among the computed quantiles, of those that were requested and of the two that
        the score needs.
    """

    of: Any
    conformal: Conformal | None
    chosen: tuple[list[int], list[int]]

    def lazy(self) -> Mapping[str, Callable[[], Tensor]]:
        """See :class:`Prediction`."""
        own = dict(self.of.lazy())
        if isinstance(self.of, OfClasses):
            own["log_probabilities"] = lambda: self.of.of.log_probabilities
        if self.conformal is None:
            return own
        if self.conformal.score in sets.SCORES:
            return own | {"prediction_set": lambda: self.members().to(torch.int8)}
        quantiles = own.get("quantiles")
        if quantiles is not None:
            own["quantiles"] = lambda: quantiles()[:, self.chosen[0]]
        base = self.base
        return own | {
            "interval": lambda: torch.stack(base().interval(self.threshold), 1),
            "conformal_score": lambda: base().scores(own["target"]()),
            "conformal_lower": lambda: base().lower,
            "conformal_upper": lambda: base().upper,
            "conformal_scale": lambda: base().scale,
        }

    def scores(self) -> Mapping[str, Tensor]:
        """See :class:`Prediction`."""
        found: Mapping[str, Tensor] = self.of.scores()
        return found

    def members(self) -> Tensor:
        """Whether each class is in the set of an item, ``(B, C)`` bool."""
        of = self.conformal
        assert of is not None
        p = self.of.lazy()["probabilities"]()
        each = sets.scores(of.score, p, of.penalty, of.free)
        return sets.members(each, p, float(of.threshold))

    def base(self) -> intervals.Base:
        """Base intervals, in the units of the target."""
        assert self.conformal is not None
        arrays = self.of.lazy()
        if self.conformal.score != "cqr":
            made = {name: arrays[name]() for name in ("mean", "std")}
        else:
            both = arrays["quantiles"]()[:, self.chosen[1]]
            made = {"lower": both[:, 0], "upper": both[:, 1]}
        if "series_std" in arrays:
            made["series_std"] = arrays["series_std"]()
        return intervals.base_of(self.conformal.score, made)

    @property
    def threshold(self) -> np.ndarray:
        """Thresholds of the values of an item."""
        assert self.conformal is not None
        return self.conformal.threshold


class RecalibratedTally(Tally):
    """Metrics of a task, and the observed coverage and mean size of conformal sets or intervals."""

    def __init__(self, of: Tally, conformal: Conformal, view: View) -> None:
        self.of, self.conformal, self.view = of, conformal, view
        self.classes = conformal.score in sets.SCORES
        rows = 1 if self.classes else len(view.units.scale)
        self.state = torch.zeros(3 * rows, dtype=torch.float64)  # known, covered, size by row

    @property
    def states(self) -> list[Tensor]:
        """See :class:`Tally`."""
        return [*self.of.states, self.state]

    def update(
        self,
        prediction: RecalibratedPrediction,
        target: Tensor,
        weight: Tensor,
        mask: Tensor | None = None,
    ) -> None:
        """See :class:`Tally`."""
        self.of.update(prediction.of, target, weight, mask)
        keep = weight > 0
        if self.classes:
            known = keep if mask is None else keep & mask
            members = prediction.members()
            label = target.masked_fill(~known, 0).long()
            inside = members.gather(1, label[:, None])[:, 0]
            size = members.double().sum(1)
        else:
            base, y = prediction.base(), prediction.of.lazy()["target"]()
            known = keep.reshape(-1, *[1] * (y.dim() - 1)).expand(y.shape) & ~y.isnan()
            known = known if mask is None else known & mask
            inside = base.holds(y.double(), self.conformal.threshold)
            low, high = base.interval(self.conformal.threshold)
            size = high - low
        numbers = [known, inside & known, torch.where(known, size, 0.0)]
        self.state += torch.stack([self._by_row(x.double()) for x in numbers]).flatten().cpu()

    def _by_row(self, x: Tensor) -> Tensor:
        rows = len(self.state) // 3
        return x.sum().reshape(1) if rows == 1 else x.reshape(len(x), rows, -1).sum((0, 2))

    def result(self, full: bool) -> Found:
        """See :class:`Tally`."""
        found, units = self.of.result(full), self.view.units
        known, covered, size = (v.numpy() for v in self.state.reshape(3, -1))
        with np.errstate(invalid="ignore"):
            items = found.metrics.pop("items", None)
            found.metrics["conformal_coverage"] = float(covered.sum() / known.sum())
            if self.classes:
                found.metrics["conformal_size"] = float(size.sum() / known.sum())
            else:
                scale = units.scale if units.mixed else 1.0
                found.metrics["conformal_width"] = float((size / scale).sum() / known.sum())
                if units.overall:
                    found.units["conformal_width"] = units.overall
            if items is not None:
                found.metrics["items"] = items
            if found.rows:
                found.rows["conformal_coverage"] = (covered / known).tolist()
                found.rows["conformal_width"] = (size / known).tolist()
        return found


class Recalibrated(Task):
    """A task of one target with its recalibration; see the docstring of this module.

    Parameters
    ----------
    task
        Task of the run.
    found
        Scaling and conformal thresholds that were fitted.
    """

    def __init__(self, task: Task, found: Recalibration) -> None:
        self.task, self.found = task, found
        self.kind, self.key = task.kind, task.key
        for name in ("labels", "usual_likelihood", "best", "scores", "told_apart", "parts"):
            setattr(self, name, getattr(task, name))
        self.definitions = {**task.definitions, **_defined(found.conformal)}  # type: ignore[misc]

    def predict(
        self,
        outputs: Tensor,
        target: Tensor,
        view: View,
        *,
        mask: Tensor | None = None,
        full: bool = False,
        levels: Sequence[float] = (),
    ) -> RecalibratedPrediction:
        """See :class:`Task`."""
        own = quantile_levels(self.found.conformal)
        every = sorted({*levels, *own})
        p = self.task.predict(outputs, target, view, mask=mask, full=full, levels=every)
        if self.found.scaling is not None:
            assert isinstance(p, OfClasses)
            scaled = self.found.scaling(p.of.log_probabilities)
            # epistemic uncertainty is unchanged: scaling changes the total and the aleatoric one
            epistemic = p.of.total - p.of.aleatoric
            of = replace(p.of, log_probabilities=scaled, aleatoric=entropy(scaled) - epistemic)
            p = replace(p, of=of)
        at = [every.index(v) for v in sorted(set(levels))], [every.index(v) for v in own]
        return RecalibratedPrediction(p, self.found.conformal, at)

    def tally(self, view: View) -> Tally:
        """See :class:`Task`."""
        tally, of = self.task.tally(view), self.found.conformal
        if of is None:
            return _Inner(tally)
        return RecalibratedTally(tally, of, view)

    def variables(
        self, view: View, *, dtype: str, levels: Sequence[float], samples: int, values: bool
    ) -> tuple[dict[str, FileVariable], dict[str, FileVariable]]:
        """See :class:`Task`."""
        axes, made = self.task.variables(
            view, dtype=dtype, levels=levels, samples=samples, values=values
        )
        scaling, of = self.found.scaling, self.found.conformal
        if scaling is not None:
            old = made["probabilities"]
            text = f"{old.description}, recalibrated by {scaling.kind} scaling"
            made["probabilities"] = replace(old, description=text)
        if of is None:
            return axes, made
        said = (
            f"conformal ({of.score}) with a coverage of {of.coverage:.6g} for an item that is "
            f"exchangeable with the {of.items} calibration items"
        )
        if of.score in sets.SCORES:
            made["prediction_set"] = FileVariable(
                made["probabilities"].dims, "|i1", "", f"1: the class is in the set, {said}"
            )
        elif values:
            mean = made["mean"]
            ends = BOUNDS
            while ends in axes:
                ends += "_"
            axes[ends] = FileVariable(
                (ends,), "O", "", "end of the interval", np.array(["lower", "upper"], object)
            )
            made["interval"] = FileVariable(
                (ITEM, ends, *mean.dims[1:]), dtype, mean.units, f"interval, {said}"
            )
        return axes, made

    def has_quantiles(self, likelihood: Likelihood) -> bool:
        """See :class:`Task`."""
        return self.task.has_quantiles(likelihood)

    def is_series(self, view: View) -> bool:
        """See :class:`Task`."""
        return self.task.is_series(view)

    def resolution(self, view: View, score: str = "") -> float:
        """See :class:`Task`."""
        return self.task.resolution(view, score)


class _Inner(Tally):
    """Tally of the wrapped task, which receives its own predictions."""

    def __init__(self, of: Tally) -> None:
        self.of = of

    @property
    def states(self) -> list[Tensor]:
        return self.of.states

    def update(
        self,
        prediction: RecalibratedPrediction,
        target: Tensor,
        weight: Tensor,
        mask: Tensor | None = None,
    ) -> None:
        self.of.update(prediction.of, target, weight, mask)

    def result(self, full: bool) -> Found:
        return self.of.result(full)


def _defined(of: Conformal | None) -> dict[str, str]:
    if of is None:
        return {}
    what = "sets" if of.score in sets.SCORES else "intervals"
    name = "conformal_size" if what == "sets" else "conformal_width"
    return {
        "conformal_coverage": f"fraction of targets inside their conformal {what} ({of.score}); "
        f"the expected coverage is {of.coverage:.6g}, from {of.items} calibration items",
        name: "mean number of classes in a conformal set"
        if what == "sets"
        else "mean width of the conformal intervals",
    }
