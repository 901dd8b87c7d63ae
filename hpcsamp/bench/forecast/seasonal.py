"""Seasonal naive forecasts: the value one season ago, with the residuals of the training part."""

from __future__ import annotations

import numpy as np

from hpcsamp.bench.forecast.origins import Origins
from hpcsamp.bench.forecast.scores import Scores, crps_of_values, scores


def seasonal(name: str, train: Origins, test: Origins, season: int, coverage: float) -> Scores:
    """Forecast the latest known value at the same place of the season.

    The predictive distribution of a lead time is this value plus the residuals at that lead time of
    all windows of the training part.

    Parameters
    ----------
    season
        Steps of a season, at most the past of a window.
    """
    residuals = train.future - last_season(train, season)
    point = last_season(test, season)
    mean, low, high, crps = (np.empty_like(point) for _ in range(4))
    for lead in range(test.leads):
        own = residuals[:, lead]
        own = own[np.isfinite(own)]
        mean[:, lead] = point[:, lead] + own.mean()
        ends = np.quantile(own, [0.5 * (1 - coverage), 0.5 * (1 + coverage)])
        low[:, lead], high[:, lead] = point[:, lead] + ends[0], point[:, lead] + ends[1]
        crps[:, lead] = crps_of_values(own, test.future[:, lead] - point[:, lead])
    note = "residuals of train by lead time"
    return scores(name, test.future, mean, low, high, crps, note, test.std)


def last_season(of: Origins, season: int) -> np.ndarray:
    """Return the latest value before the origin that is whole seasons before each future value.

    A missing value is replaced by that of the season before it, as far as the window reaches; then
    by the mean of the past.
    """
    leads, past = np.arange(1, of.leads + 1), of.past.shape[1]
    found = np.full((len(of), of.leads), np.nan)
    back = season * -(-leads // season)
    while (back - leads < past).any():
        at = np.maximum(past - 1 + leads - back, 0)
        values = np.where(back - leads < past, of.past[:, at], np.nan)
        found = np.where(np.isfinite(found), found, values)
        back = back + season
    return np.where(np.isfinite(found), found, np.nanmean(of.past, 1, keepdims=True))
