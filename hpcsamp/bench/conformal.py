"""Compare the observed coverage of conformal intervals with the coverage that the theory states.

Coverage is measured over many fits and calibration sets, and over a time series that drifts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats

from hpcsamp.calibration import adaptive, quantile
from hpcsamp.calibration.intervals import SCORES, Base, base_of

FITS, SPLITS = 20, 10
TRAIN, ITEMS = 200, 100
"""Number of items for a fit and for a calibration set; all others are test items."""


@dataclass(frozen=True)
class Observed:
    """Observed coverage, with the coverage that the theory states.

    Attributes
    ----------
    name
        Description of the measurement.
    stated
        Coverage that the theory states.
    mean, error
        Observed mean, and its standard error over the fits; 0 for one series.
    """

    name: str
    stated: float
    mean: float
    error: float = 0.0


def diabetes(level: float, seed: int = 0) -> list[Observed]:
    """Measure coverage for each score, by Bayesian linear regression of the diabetes data.

    Training and calibration sets are random parts of the data, so items are exchangeable. The
    calibration sets of one fit are not independent of each other, so the standard error is computed
    from the means of the fits, which are.
    """
    from sklearn.datasets import load_diabetes
    from sklearn.linear_model import BayesianRidge

    x, y = load_diabetes(return_X_y=True)
    z = stats.norm.ppf(0.5 * (1 + level))
    found: dict[str, list[float]] = {score: [] for score in SCORES}
    for fit in range(FITS):
        generator = np.random.default_rng([seed, fit])
        order = generator.permutation(len(y))
        train, rest = order[:TRAIN], order[TRAIN:]
        model = BayesianRidge().fit(x[train], y[train])
        mean, std = (torch.from_numpy(v) for v in model.predict(x[rest], return_std=True))
        target = torch.from_numpy(y[rest].astype(float))
        arrays = {"mean": mean, "std": std, "lower": mean - z * std, "upper": mean + z * std}
        splits = [generator.permutation(len(rest)) for _ in range(SPLITS)]
        for score in SCORES:
            base = base_of(score, arrays)
            scores = base.scores(target).numpy()
            each = []
            for split in splits:
                limit = quantile.threshold(scores[split[:ITEMS]], level)
                test = torch.from_numpy(split[ITEMS:])
                tested = Base(base.lower[test], base.upper[test], base.scale[test])
                each.append(float(tested.holds(target[test], limit).double().mean()))
            found[score].append(float(np.mean(each)))
    stated = quantile.coverage(ITEMS, level)
    return [
        Observed(
            f"diabetes, {score}", stated, float(np.mean(v)), float(np.std(v, ddof=1) / FITS**0.5)
        )
        for score, v in found.items()
    ]


def drift(level: float, rate: float, items: int = 10000, seed: int = 0) -> list[Observed]:
    """Measure coverage of adaptive and fixed thresholds over a series whose spread changes."""
    generator = np.random.default_rng(seed)
    spread = np.exp(np.log(8) * np.sin(np.linspace(0, 2 * np.pi, items)) ** 2)
    past = np.abs(generator.standard_normal(300))
    scores = np.abs(generator.standard_normal(items)) * spread
    limits = adaptive.thresholds(past, scores, level, rate=rate)
    fixed = scores <= quantile.threshold(past, level)
    return [
        Observed(
            "series with drift, adaptive", level, float(adaptive.covered(scores, limits).mean())
        ),
        Observed("series with drift, fixed thresholds", level, float(fixed.mean())),
    ]
