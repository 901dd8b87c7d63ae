"""Exponential smoothing, ETS(A,Ad,A), by statsmodels; its parameters are fitted once."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpcsamp.bench.forecast.origins import Origins, one_series
from hpcsamp.bench.forecast.scores import Scores
from hpcsamp.bench.forecast.state_space import ahead, check_statsmodels, normal_scores

START = (0.2, 0.01, 0.1, 0.95, 0.1)
"""Where the fit begins: smoothing of level, trend and season, damping, and variance of errors."""

ITERATIONS = 500
"""Most iterations of the optimiser."""


def ets(
    train: Origins, before: list[Origins], test: Origins, season: int, steps: int, coverage: float
) -> Scores:
    """Forecast by additive errors, a damped trend and an additive season.

    The smoothing parameters are fitted to the last ``steps`` values of the training part; level,
    trend and season are then updated with every later value up to the origin (Hyndman et al. 2008,
    chapter 3). Each series has a model of its own.

    Parameters
    ----------
    before
        Windows of all parts between train and test.
    season
        Steps of a season.
    """
    check_statsmodels("ETS")
    mean, std = np.empty_like(test.future), np.empty_like(test.future)
    for series in np.unique(test.series).tolist():
        own = np.flatnonzero(test.series == series)
        last, begin = one_series([train], series)
        cut = max(0, len(last) - steps)
        fitted = fit(last[cut:], season)
        values, first = one_series([train, *before, test], series)
        start = cut + (begin - first) // test.step
        at = (test.origin[own] - first) // test.step - start
        mean[own], std[own] = ahead(fitted.filtered(values[start:]), at, test.leads)
        mean[own], std[own] = fitted.mean + fitted.std * mean[own], fitted.std * std[own]
    note = f"season of {season} steps, fitted to the last {steps} values of train"
    return normal_scores(f"ETS(A,Ad,A)[{season}]", test, mean, std, coverage, note)


@dataclass(frozen=True)
class Fitted:
    """A fitted model: its parameters, its initial states, and the scale of its values."""

    params: np.ndarray
    initial: Mapping[str, Any]
    mean: float
    std: float

    def filtered(self, values: np.ndarray) -> Any:
        """Filter a series that begins as that of the fit does; results are in standardised values.

        statsmodels' ``apply`` does not keep the initial states of this model.
        """
        return _model((values - self.mean) / self.std, self.initial).filter(self.params)


def fit(values: np.ndarray, season: int) -> Fitted:
    """Fit a model to a series ``(times,)``; NaN where missing.

    The initial level and season are means over the first two seasons, and the initial trend is 0.
    """
    mean, std = float(np.nanmean(values)), float(np.nanstd(values)) or 1.0
    z = (values - mean) / std
    first = z[: 2 * season]
    from statsmodels.tsa.statespace import exponential_smoothing  # noqa: F401 (it sets filters)

    table = first[: len(first) // season * season].reshape(-1, season)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # empty means, and convergence to within a tolerance
        level = float(np.nan_to_num(np.nanmean(first)))
        pattern = np.nan_to_num(np.nanmean(table, 0) - level)
        initial = {
            "seasonal": season,
            "initial_level": level,
            "initial_trend": 0.0,
            "initial_seasonal": pattern[::-1].copy(),  # the latest place of the season first
        }
        found = _model(z, initial).fit(start_params=START, disp=False, maxiter=ITERATIONS)
    return Fitted(np.asarray(found.params), initial, mean, std)


def _model(z: np.ndarray, initial: Mapping[str, Any]) -> Any:
    from statsmodels.tsa.statespace.exponential_smoothing import ExponentialSmoothing

    return ExponentialSmoothing(
        z, trend=True, damped_trend=True, initialization_method="known", concentrate_scale=False,
        **initial,
    )  # fmt: skip
