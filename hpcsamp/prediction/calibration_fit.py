"""Fit scaling and conformal thresholds to predictions of calibration items. Serial."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from hpcsamp.calibration import intervals, quantile, sets
from hpcsamp.calibration.record import Adaptive, Conformal, Recalibration
from hpcsamp.calibration.scaling import SCALINGS, Scaling
from hpcsamp.errors import DataError, UsageError
from hpcsamp.prediction.calibration_set import Material
from hpcsamp.spelling import suggest

VALUES = 1 << 16
"""Largest number of values of an item, each of which needs a threshold."""
PAST = 512
"""Smallest number of past scores that adaptive intervals keep for each value."""
PENALTY, FREE = 0.01, 5
"""Default penalty of the score ``raps``, and number of most probable classes without it."""
BOTH = 2
"""Number of parts of the calibration items if both a scaling and prediction sets are fitted."""


@dataclass(frozen=True)
class Options:
    """Options of a recalibration: scaling, conformal score, coverage and form.

    Attributes
    ----------
    scaling, score
        Names, ``"auto"`` or ``"none"``. They apply to the targets for which they exist.
    level
        Coverage.
    penalty, free
        Parameters of the score ``raps``.
    adaptive
        Learning rate of adaptive thresholds; None for fixed thresholds.
    """

    scaling: str = "auto"
    score: str = "auto"
    level: float = 0.9
    penalty: float = PENALTY
    free: int = FREE
    adaptive: float | None = None


def check(options: Options) -> None:
    """Refuse options that do not exist.

    Raises
    ------
    UsageError
        If an option has an invalid value; the message contains the allowed ones.
    """
    for option, name, known in (
        ("--scaling", options.scaling, ["auto", "none", *SCALINGS]),
        ("--conformal", options.score, ["auto", "none", *sets.SCORES, *intervals.SCORES]),
    ):
        if name not in known:
            raise UsageError(
                f"{option} {name!r}{suggest(name, known)}; choose from {', '.join(known)}"
            )
    quantile.check_level(options.level)
    if options.adaptive is not None and not 0 < options.adaptive < 1:
        raise UsageError(f"--adaptive {options.adaptive:g} must be between 0 and 1")
    if not 0 <= options.penalty < float("inf") or options.free < 0:
        raise UsageError(
            f"--raps-penalty {options.penalty:g} and --raps-free {options.free} must be at least 0"
        )
    if options.score != "raps" and (options.penalty, options.free) != (PENALTY, FREE):
        raise UsageError(
            f"--raps-penalty and --raps-free are settings of --conformal raps, but the score is "
            f"{options.score}"
        )


def fit(
    material: list[Material], options: Options, seed: int, where: str
) -> dict[str, Recalibration]:
    """Fit the chosen scaling and conformal score to each target to which they apply.

    Raises
    ------
    DataError, UsageError
        If a set is too small, predictions are not finite, or the options apply to no target.
    """
    found = {}
    for of in material:
        if of.classes:
            found[of.name] = _fit_classes(of, options, seed, where)
        elif of.arrays:
            found[of.name] = _fit_values(of, options, where)
    found = {n: of for n, of in found.items() if of.scaling is not None or of.conformal is not None}
    if options.scaling not in ("auto", "none") and all(f.scaling is None for f in found.values()):
        raise UsageError(
            f"--scaling {options.scaling}: only class probabilities are scaled, and no target is a "
            f"label; use --conformal for numeric targets"
        )
    if options.score not in ("auto", "none") and all(f.conformal is None for f in found.values()):
        kinds = "labels" if options.score in sets.SCORES else "values"
        more = " with quantiles" if options.score == "cqr" else ""
        raise UsageError(
            f"--conformal {options.score} applies to {kinds}{more}, but no target has these"
        )
    if options.adaptive is not None and not any(
        f.conformal is not None and f.conformal.adaptive is not None for f in found.values()
    ):
        raise UsageError(
            f"--adaptive {options.adaptive:g}: only intervals of numeric targets are adaptive, but "
            f"none are fitted"
        )
    if not found:
        raise UsageError("nothing to fit: --scaling and --conformal are none for all targets")
    return found


def _fit_classes(of: Material, options: Options, seed: int, where: str) -> Recalibration:
    kind = "temperature" if options.scaling == "auto" else options.scaling
    score = "aps" if options.score == "auto" else options.score
    score = score if score in sets.SCORES else "none"
    target, log_p = of.arrays["target"], of.arrays["log_probabilities"]
    known = ~np.isnan(target)
    log_p, labels = _without_nan(log_p[known], where), target[known].astype(np.int64)
    order = np.random.Generator(np.random.Philox(key=seed)).permutation(len(labels))
    cut = len(order) // BOTH if kind != "none" and score != "none" else len(order)
    scaling: Scaling | None = None
    rest = order
    if kind != "none":
        if cut < BOTH:
            raise DataError(
                f"{where} has {len(labels)} items with a known label; {cut} of them are used "
                f"for {kind} scaling, which needs at least {BOTH}"
            )
        scaling = SCALINGS[kind].fit(log_p[order[:cut]], labels[order[:cut]])
        rest = order[cut:]
    if score == "none":
        return Recalibration(scaling)
    each = torch.from_numpy(log_p[rest])
    each = (each if scaling is None else scaling(each)).exp()
    of_classes = sets.scores(score, each, options.penalty, options.free).numpy()
    own = np.take_along_axis(of_classes, labels[rest][:, None], 1)[:, 0]
    half = " (the half that is not used for the scaling)" if scaling is not None else ""
    limit = quantile.threshold(own, options.level, where + half)
    n = len(own)
    made = Conformal(
        score, options.level, n, quantile.coverage(n, options.level), np.asarray(limit),
        options.penalty, options.free,
    )  # fmt: skip
    return Recalibration(scaling, made)


def _fit_values(of: Material, options: Options, where: str) -> Recalibration:
    score = options.score
    if score == "auto":
        score = "cqr" if "quantiles" in of.arrays else "normalised"
    if score not in intervals.SCORES or (score == "cqr" and "quantiles" not in of.arrays):
        return Recalibration()
    arrays = {name: torch.from_numpy(of.arrays[name]) for name in ("mean", "std")}
    if score == "cqr":
        both = torch.from_numpy(of.arrays["quantiles"])
        arrays |= {"lower": both[:, 0], "upper": both[:, 1]}
    if "series_std" in of.arrays:
        arrays["series_std"] = torch.from_numpy(of.arrays["series_std"])
    for name in ("lower", "upper") if score == "cqr" else ("mean", "std"):
        odd = int((~arrays[name].isfinite()).sum())
        if odd:
            raise DataError(f"{where}: {odd} predicted values of {of.title} are not finite")
    y = of.arrays["target"]
    if y[0].size > VALUES:
        raise UsageError(
            f"an item of {of.title} has {y[0].size} values, each of which needs a threshold, but "
            f"at most {VALUES} thresholds can be fitted"
        )
    scores = intervals.base_of(score, arrays).scores(torch.from_numpy(y)).numpy()
    limit = quantile.threshold(scores, options.level, f"{where}: {of.title}")
    if not np.isfinite(limit).all():
        raise DataError(
            f"{where}: the predictive standard deviation of {of.title} is 0 for more items than a "
            f"coverage of {options.level:g} leaves out; use --conformal cqr, or a likelihood with "
            f"noise"
        )
    counts = np.unique((~np.isnan(scores)).sum(0)).tolist()
    adaptive = None
    if options.adaptive is not None:
        in_time_order(of.time, where, "series_std" in of.arrays)
        flat = scores.reshape(len(scores), -1)
        last = max(PAST, 2 * quantile.smallest(options.level))
        first = np.arange(y.shape[1]) if of.series else np.zeros(flat.shape[1], int)
        adaptive = Adaptive(options.adaptive, first + 1, flat[-last:])
    exact = min(quantile.coverage(n, options.level) for n in counts)
    made = Conformal(score, options.level, min(counts), exact, limit, adaptive=adaptive)
    return Recalibration(None, made)


def _without_nan(log_p: np.ndarray, where: str) -> np.ndarray:
    odd = int(np.isnan(log_p).any(1).sum())
    if odd:
        raise DataError(f"{where}: the predicted probabilities of {odd} items are not numbers")
    return log_p


def in_time_order(time: np.ndarray | None, where: str, several: bool = False) -> None:
    """Check that items whose times are known are in time order.

    Parameters
    ----------
    several
        Whether the items belong to several series, which have no common order.

    Raises
    ------
    DataError
        If they are not; the message contains the first two items in the wrong order.
    """
    if several:
        raise DataError(
            f"{where}: adaptive intervals need the items of one series in time order, but the set "
            f"has several series; recalibrate without --adaptive, or a set of one series"
        )
    if time is not None and (np.diff(time) < 0).any():
        at = int(np.flatnonzero(np.diff(time) < 0)[0])
        raise DataError(
            f"{where}: adaptive intervals need items in time order, but items {at} and {at + 1} "
            f"have the times {time[at]:g} and {time[at + 1]:g}"
        )
