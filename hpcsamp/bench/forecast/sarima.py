"""Seasonal ARIMA with Fourier terms of the longer season, by statsmodels; fitted once."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from scipy import stats

from hpcsamp.bench.forecast.origins import Origins, one_series
from hpcsamp.bench.forecast.scores import Scores, crps_of_normal, scores
from hpcsamp.errors import UsageError

ORDER, SEASONAL = (2, 0, 1), (1, 1, 1)
"""Orders of the model, without its seasonal period."""
HARMONICS = 3
"""Number of pairs of Fourier terms of the longer season."""


@dataclass(frozen=True)
class Fitted:
    """A fitted model: results of statsmodels in standardised values, and their scale."""

    results: object
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
    try:
        import statsmodels  # noqa: F401
    except ImportError:
        raise UsageError(
            "SARIMA needs statsmodels: pip install hpcsamp[forecast]; or name other baselines with "
            "--baseline"
        ) from None
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
    z = stats.norm.ppf(0.5 * (1 + coverage))
    crps = crps_of_normal(mean, std, test.future)
    p, q, fourier = ORDER, SEASONAL, f", {HARMONICS} pairs of Fourier terms of {seasons[-1]} steps"
    name = f"SARIMA{p}{q}[{seasons[0]}]".replace(" ", "")
    note = f"fitted to the last {steps} values of train" + fourier * (len(seasons) > 1)
    return scores(name, test.future, mean, mean - z * std, mean + z * std, crps, note, test.std)


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
    """Mean and standard deviation ``(n, leads)`` of the values after the positions ``at``.

    The filter's state after position t is moved on by the matrices of the model, as statsmodels'
    ``forecast`` does after ``apply`` with the values up to t.
    """
    results = of.results.apply(  # type: ignore[attr-defined]
        (values - of.mean) / of.std, exog=_fourier(clock, len(values), seasons), refit=False
    )
    ssm = results.filter_results
    t, z, h = ssm.transition[..., 0], ssm.design[..., 0], ssm.obs_cov[..., 0]
    noise = ssm.selection[..., 0] @ ssm.state_cov[..., 0] @ ssm.selection[..., 0].T
    a, p = ssm.predicted_state[:, at + 1], np.moveaxis(ssm.predicted_state_cov, 2, 0)[at + 1]
    shift = np.zeros(len(values) + leads)
    terms = _fourier(clock, len(values) + leads, seasons)
    if terms is not None:
        shift = terms @ results.params[: terms.shape[1]]
    mean, std = np.empty((len(at), leads)), np.empty((len(at), leads))
    for lead in range(leads):
        mean[:, lead] = (z @ a)[0] + shift[at + 1 + lead]
        std[:, lead] = np.sqrt((z @ p @ z.T)[:, 0, 0] + h[0, 0])
        a, p = t @ a, t @ p @ t.T + noise
    return of.mean + of.std * mean, of.std * std
