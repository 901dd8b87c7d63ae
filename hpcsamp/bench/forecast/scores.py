"""Scores of forecasts by lead time: CRPS, errors of the mean, coverage and width of intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class Scores:
    """Means over all origins, ``(leads,)`` each, in the units of the series.

    Attributes
    ----------
    name
        Name of the forecasts.
    crps
        Continuous ranked probability score.
    absolute, square
        Absolute and squared error of the mean.
    covered
        Fraction of values inside the interval.
    width
        Width of the interval.
    note
        How the distribution and the interval were found.
    kind
        Runs of the same kind differ in their seed alone; empty for baselines.
    """

    name: str
    crps: np.ndarray
    absolute: np.ndarray
    square: np.ndarray
    covered: np.ndarray
    width: np.ndarray
    note: str = ""
    kind: str = ""

    def over(self, leads: slice) -> dict[str, float]:
        """Return the scores of several lead times together."""
        return {
            "crps": float(self.crps[leads].mean()),
            "mae": float(self.absolute[leads].mean()),
            "rmse": float(self.square[leads].mean() ** 0.5),
            "coverage": float(self.covered[leads].mean()),
            "width": float(self.width[leads].mean()),
        }


def scores(
    name: str,
    observed: np.ndarray,
    mean: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    crps: np.ndarray,
    note: str = "",
    std: np.ndarray | None = None,
) -> Scores:
    """Average scores over the origins of all series.

    Parameters
    ----------
    observed
        ``(n, leads)``; NaN where missing.
    mean, low, high
        ``(n, leads)`` mean and bounds of the interval.
    crps
        ``(n, leads)``, or ``(leads,)`` means.
    std
        ``(n,)`` factors that convert all of these to the units of the series of each origin.
    """
    unit = np.ones((1, 1)) if std is None else std[:, None]
    known = np.isfinite(observed)
    count = known.sum(0)

    def over(values: np.ndarray) -> np.ndarray:
        found: np.ndarray = np.where(known, values, 0.0).sum(0) / count
        return found

    return Scores(
        name,
        crps if crps.ndim == 1 else over(unit * crps),
        over(unit * np.abs(mean - observed)),
        over((unit * (mean - observed)) ** 2),
        over((low <= observed) & (observed <= high)),
        over(unit * (high - low)),
        note,
    )


def over_seeds(found: Sequence[Scores], leads: slice) -> list[dict[str, Any]]:
    """Mean and standard deviation of the scores of runs that differ in their seed alone.

    Returns
    -------
    list
        Two rows for each kind with several runs: ``forecast`` (a title) and the scores by name. The
        standard deviation is over seeds, with n - 1.
    """
    rows: list[dict[str, Any]] = []
    for kind in dict.fromkeys(of.kind for of in found if of.kind):
        own = [of for of in found if of.kind == kind]
        if len(own) < 2:
            continue
        each = [of.over(leads) for of in own]
        title = f"{len(own)} seeds of {own[0].name}"
        for what, of_all in (("mean", np.mean), ("standard deviation", partial(np.std, ddof=1))):
            scores = {key: float(of_all([one[key] for one in each])) for key in each[0]}
            rows.append({"forecast": f"{title}, {what}", **scores})
    return rows


def crps_of_normal(mean: np.ndarray, std: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """CRPS of normal distributions (Gneiting et al. 2005, eq. 5)."""
    z = (observed - mean) / std
    found: np.ndarray = std * (
        z * (2 * stats.norm.cdf(z) - 1) + 2 * stats.norm.pdf(z) - 1 / np.sqrt(np.pi)
    )
    return found


def crps_of_values(values: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """CRPS of the distribution with equal weights on ``values`` ``(m,)``, for each observation.

    ``mean_i |x_i - y| - sum_ij |x_i - x_j| / (2 m^2)`` (Gneiting and Raftery 2007, eq. 20), from
    sorted values and their sums, so that it takes ``m log m + n log m`` operations.
    """
    x = np.sort(values)
    m, sums = len(x), np.concatenate([[0.0], np.cumsum(x)])
    spread = 2 * ((2 * np.arange(1, m + 1) - m - 1) * x).sum() / (2 * m * m)
    below = np.searchsorted(x, observed)
    distance = observed * below - sums[below] + (sums[-1] - sums[below]) - observed * (m - below)
    found: np.ndarray = distance / m - spread
    return found


def crps_of_quantiles(
    quantiles: np.ndarray, levels: np.ndarray, observed: np.ndarray
) -> np.ndarray:
    """CRPS from quantiles at the middles ``(k + 1/2) / K`` of K equal parts of 0 to 1.

    The CRPS is twice the integral of the pinball loss over all levels (Laio and Tamea 2007); the
    midpoint rule approximates it by twice the mean of these losses.

    Parameters
    ----------
    quantiles
        ``(K, ...)``.
    levels
        ``(K,)``.
    observed
        ``(...)``.
    """
    miss = observed - quantiles
    tau = levels.reshape(-1, *[1] * observed.ndim)
    found: np.ndarray = 2 * np.maximum(tau * miss, (tau - 1) * miss).mean(0)
    return found
