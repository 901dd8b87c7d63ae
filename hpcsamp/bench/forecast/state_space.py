"""Forecasts of a state-space model of statsmodels at rolling origins, without refitting."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import stats

from hpcsamp.bench.forecast.origins import Origins
from hpcsamp.bench.forecast.scores import Scores, crps_of_normal, scores
from hpcsamp.errors import UsageError


def check_statsmodels(what: str) -> None:
    """Refuse a baseline if statsmodels is not installed.

    Raises
    ------
    UsageError
        If it is not.
    """
    try:
        import statsmodels  # noqa: F401
    except ImportError:
        raise UsageError(
            f"{what} needs statsmodels: pip install hpcsamp[forecast]; or name other baselines "
            f"with --baseline"
        ) from None


def ahead(results: Any, at: np.ndarray, leads: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation ``(n, leads)`` of the values after the positions ``at``.

    The filter's state after position t is moved on by the matrices of the model, as statsmodels'
    ``forecast`` does after ``apply`` with the values up to t. Regressors are not included.

    Parameters
    ----------
    results
        Results of one pass of the Kalman filter over all values.
    """
    ssm = results.filter_results
    t, z, h = ssm.transition[..., 0], ssm.design[..., 0], ssm.obs_cov[..., 0]
    noise = ssm.selection[..., 0] @ ssm.state_cov[..., 0] @ ssm.selection[..., 0].T
    a, p = ssm.predicted_state[:, at + 1], np.moveaxis(ssm.predicted_state_cov, 2, 0)[at + 1]
    mean, std = np.empty((len(at), leads)), np.empty((len(at), leads))
    for lead in range(leads):
        mean[:, lead] = (z @ a)[0]
        std[:, lead] = np.sqrt((z @ p @ z.T)[:, 0, 0] + h[0, 0])
        a, p = t @ a, t @ p @ t.T + noise
    return mean, std


def normal_scores(
    name: str, test: Origins, mean: np.ndarray, std: np.ndarray, coverage: float, note: str
) -> Scores:
    """Score normal distributions ``(n, leads)`` and their central intervals."""
    z = stats.norm.ppf(0.5 * (1 + coverage))
    crps = crps_of_normal(mean, std, test.future)
    return scores(name, test.future, mean, mean - z * std, mean + z * std, crps, note, test.std)
