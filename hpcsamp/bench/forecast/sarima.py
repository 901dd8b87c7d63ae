"""Seasonal ARIMA with Fourier terms of the longer season, by statsmodels; fitted once."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpcsamp.bench.forecast.origins import Origins, one_series
from hpcsamp.bench.forecast.scores import Scores
from hpcsamp.bench.forecast.state_space import ahead, check_statsmodels, normal_scores

ORDER, SEASONAL = (2, 0, 1), (1, 1, 1)
"""Orders of the model, without its seasonal period."""
HARMONICS = 3
"""Number of pairs of Fourier terms of the longer season."""


@dataclass(frozen=True)
class Fitted:
    """A fitted model: results of statsmodels in standardised values, and their scale."""

    results: Any
    mean: float
    std: float


def sarima(
    train: Origins, before: list[Origins], test: Origins, seasons: list[int], steps: int,
    coverage: float,
) -> Scores:  # fmt: skip
    """Fit the last ``steps`` values of the training part; filter later values without refitting.

    The state at each origin comes from one pass of the Kalman filter over the ``steps`` values
    before the test part and over the test part; forecasts are its predictions, with the covariance
    of the model. Each series has a model of its own.

    Parameters
    ----------
    before
        Windows of all parts between train and test.
    seasons
        Seasonal period of the model, and that of the Fourier terms if there are two.
    """
    check_statsmodels("SARIMA")
    mean, std = np.empty_like(test.future), np.empty_like(test.future)
    for series in np.unique(test.series).tolist():
        own = np.flatnonzero(test.series == series)
        fitted = _fit(train, series, seasons, steps)
        values, first = one_series([train, *before, test], series)
        begin = int(test.origin[own].min() - first) // test.step + 1 - test.past.shape[1]
        start = max(0, begin - steps)
        at = (test.origin[own] - first) // test.step - start
        clock = start + first // test.step
        mean[own], std[own] = _predict(fitted, values[start:], clock, at, seasons, test.leads)
    p, q, fourier = ORDER, SEASONAL, f", {HARMONICS} pairs of Fourier terms of {seasons[-1]} steps"
    name = f"SARIMA{p}{q}[{seasons[0]}]".replace(" ", "")
    note = f"fitted to the last {steps} values of train" + fourier * (len(seasons) > 1)
    return normal_scores(name, test, mean, std, coverage, note)


def _fourier(clock: int, count: int, seasons: list[int]) -> np.ndarray | None:
    """Fourier terms ``(count, 2 * HARMONICS)`` from a position on the time axis on."""
    if len(seasons) < 2:
        return None
    angle = 2 * np.pi * np.arange(clock, clock + count)[:, None] / seasons[-1]
    angle = angle * np.arange(1, HARMONICS + 1)
    return np.concatenate([np.sin(angle), np.cos(angle)], axis=1)


def _fit(train: Origins, series: int, seasons: list[int], steps: int) -> Fitted:
    from statsmodels.tsa.statespace.sarimax import SARIMAX

    values, first = one_series([train], series)
    start = max(0, len(values) - steps)
    last = values[start:]
    mean, std = float(np.nanmean(last)), float(np.nanstd(last)) or 1.0
    clock = start + first // train.step
    model = SARIMAX(
        (last - mean) / std, exog=_fourier(clock, len(last), seasons), order=ORDER,
        seasonal_order=(*SEASONAL, seasons[0]),
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # starting values, and convergence to within a tolerance
        return Fitted(model.fit(disp=False, maxiter=50), mean, std)


def _predict(
    of: Fitted, values: np.ndarray, clock: int, at: np.ndarray, seasons: list[int], leads: int
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation ``(n, leads)`` of the values after the positions ``at``."""
    results = of.results.apply(
        (values - of.mean) / of.std, exog=_fourier(clock, len(values), seasons), refit=False
    )
    mean, std = ahead(results, at, leads)
    terms = _fourier(clock, len(values) + leads, seasons)
    if terms is not None:
        shift = terms @ results.params[: terms.shape[1]]
        mean = mean + shift[at[:, None] + np.arange(1, leads + 1)]
    return of.mean + of.std * mean, of.std * std
