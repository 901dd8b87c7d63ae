"""Gradient-boosted quantiles of scikit-learn, for all lead times at once."""

from __future__ import annotations

import numpy as np

from hpcsamp.bench.forecast.origins import Origins
from hpcsamp.bench.forecast.scores import Scores, crps_of_quantiles, scores
from hpcsamp.bench.forecast.seasonal import last_season

LEVELS = 30
"""Number of quantiles: their levels are the middles of as many equal parts of 0 to 1."""
ROWS = 40_000
"""Largest number of training rows, one for each lead time of a window."""


def boosting(
    train: Origins, test: Origins, seasons: list[int], coverage: float, seed: int = 0
) -> Scores:
    """Fit one model for each quantile to the difference from the seasonal naive forecast.

    Inputs are the latest values of each season, their mean, the last value, the mean of the past,
    lead time, time of day and day of the week, the covariates of the set, and the series. If the
    training part has more than :data:`ROWS` rows, random windows of it are used.
    """
    from sklearn.ensemble import HistGradientBoostingRegressor

    generator = np.random.default_rng(seed)
    count = min(len(train), max(1, ROWS // train.leads))
    used = train.take(np.sort(generator.permutation(len(train))[:count]))
    x, y = features(used, seasons), (used.future - last_season(used, seasons[-1])).ravel()
    known = np.isfinite(y)
    middles = (np.arange(LEVELS) + 0.5) / LEVELS
    ends = np.round([0.5 * (1 - coverage), 0.5 * (1 + coverage)], 12)
    levels = sorted({*np.round(middles, 12).tolist(), *ends.tolist()})
    new, base = features(test, seasons), last_season(test, seasons[-1])
    found = []
    for level in levels:
        model = HistGradientBoostingRegressor(
            loss="quantile", quantile=level, early_stopping=False, random_state=seed
        )
        found.append(model.fit(x[known], y[known]).predict(new).reshape(base.shape) + base)
    quantiles = np.sort(found, axis=0)  # models of different levels may cross
    low, high = (quantiles[levels.index(end)] for end in ends.tolist())
    grid = quantiles[[levels.index(m) for m in np.round(middles, 12).tolist()]]
    crps = crps_of_quantiles(grid, middles, test.future)
    note = f"CRPS and mean from {LEVELS} quantiles"
    mean = grid.mean(0)
    return scores("boosted quantiles", test.future, mean, low, high, crps, note, test.std)


def features(of: Origins, seasons: list[int]) -> np.ndarray:
    """Return the inputs of the models, ``(windows * leads, features)``."""
    leads = np.arange(1, of.leads + 1)
    shape = (len(of), of.leads)
    time = of.origin[:, None] + of.step * leads
    columns = [last_season(of, season) for season in seasons]
    columns += [
        np.broadcast_to(of.past[:, -1:], shape),
        np.broadcast_to(np.nanmean(of.past[:, -seasons[0] :], 1, keepdims=True), shape),
        np.broadcast_to(np.nanmean(of.past, 1, keepdims=True), shape),
        np.broadcast_to(leads, shape),
        time % 86_400,
        (time // 86_400) % 7,
        np.broadcast_to(of.series[:, None], shape),
        *np.moveaxis(of.more, 1, 0),
    ]
    return np.stack([np.asarray(c, float).ravel() for c in columns], axis=1)
