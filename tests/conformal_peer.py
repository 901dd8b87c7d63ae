"""Compare conformal sets and intervals with MAPIE and torchcp: ``tests/conformal_peer.py FOLDER``.

FOLDER is where ``pip install --no-deps --target`` has put ``mapie`` and ``torchcp``, which are no
dependencies of hpcsamp. All packages get the same class probabilities and intervals, which are made
up. The columns are the difference of the thresholds, the number of sets that differ or the largest
difference of the ends of intervals, and the number of test items. hpcsamp's sets always contain the
most probable class, so it is added to the others'. Not compared: APS and RAPS of MAPIE, whose
scores are randomised, and normalised intervals of both, which estimate the scale by themselves; for
these the threshold is torchcp's.
"""

from __future__ import annotations

import importlib.util
import sys
import types
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin

from hpcsamp.calibration import intervals, quantile, sets

sys.path += sys.argv[1:]
ITEMS, TESTED, CLASSES = 500, 2000, 10
PENALTY, FREE = 0.05, 2


class Known(ClassifierMixin, BaseEstimator):
    """A fitted classifier whose inputs are its class probabilities."""

    classes_ = np.arange(CLASSES)
    n_features_in_ = CLASSES

    def fit(self, x: Any, y: Any) -> Known:
        """Nothing is left to fit."""
        return self

    def predict_proba(self, x: Any) -> np.ndarray:
        """Return the inputs."""
        return np.asarray(x)

    def predict(self, x: Any) -> np.ndarray:
        """Return the most probable classes."""
        return np.asarray(x).argmax(1)


class Column(RegressorMixin, BaseEstimator):
    """A fitted regression that predicts a column of its inputs."""

    def __init__(self, column: int = 0) -> None:
        self.column = column
        self.fitted_, self.n_features_in_ = True, 3

    def fit(self, x: Any, y: Any) -> Column:
        """Nothing is left to fit."""
        return self

    def predict(self, x: Any) -> np.ndarray:
        """Return the column."""
        return np.asarray(x)[:, self.column]


def modules(*names: str) -> None:
    """Let parts of a package be imported without its own ``__init__``, which imports much more."""
    for name in names:
        if name in sys.modules:
            continue
        spec = importlib.util.find_spec(name)
        if spec is None:
            raise SystemExit(f"{name} is not installed")
        made = types.ModuleType(name)
        made.__path__ = list(spec.submodule_search_locations or [])
        sys.modules[name] = made


def probabilities(level: float) -> None:
    """Compare sets of classes."""
    from mapie.classification import SplitConformalClassifier
    from mapie.conformity_scores import LACConformityScore

    modules("torchcp", "torchcp.utils", "torchcp.classification", "torchcp.classification.score")
    from torchcp.classification.score.aps import APS
    from torchcp.classification.score.lac import LAC
    from torchcp.classification.score.raps import RAPS
    from torchcp.utils.common import calculate_conformal_value

    generator = np.random.default_rng(0)
    logits = 1.5 * generator.standard_normal((ITEMS + TESTED, CLASSES))
    p = torch.softmax(torch.from_numpy(logits), 1)
    y = torch.from_numpy((p.cumsum(1).numpy() < generator.random((len(p), 1))).sum(1))
    known, new = slice(0, ITEMS), slice(ITEMS, None)
    theirs = {
        "lac": LAC("identity"),
        "aps": APS("identity", randomized=False),
        "raps": RAPS("identity", randomized=False, penalty=PENALTY, kreg=FREE),
    }
    for kind, score in theirs.items():
        found = sets.scores(kind, p, PENALTY, FREE)
        limit = float(
            quantile.threshold(found[known].gather(1, y[known, None])[:, 0].numpy(), level)
        )
        own = sets.members(found[new], p[new], limit)
        of_peer = score(p)
        at = float(calculate_conformal_value(score(p[known], y[known]), 1 - level))
        peer = (of_peer[new] <= at).scatter(1, p[new].argmax(1, keepdim=True), True)
        line(kind, "torchcp", limit - at, int((own != peer).any(1).sum()))
        if kind != "lac":
            continue
        made = SplitConformalClassifier(Known(), level, LACConformityScore())
        made.conformalize(p[known].numpy(), y[known].numpy())
        chosen = made.predict_set(p[new].numpy())[1][:, :, 0]
        at = float(made._mapie_classifier.conformity_score_function_.quantiles_[0])
        peer = torch.from_numpy(chosen).scatter(1, p[new].argmax(1, keepdim=True), True)
        line(kind, "MAPIE", limit - at, int((own != peer).any(1).sum()))


def values(level: float) -> None:
    """Compare intervals."""
    from mapie.regression import ConformalizedQuantileRegressor

    generator = np.random.default_rng(1)
    mean = generator.standard_normal(ITEMS + TESTED)
    std = np.exp(0.5 * generator.standard_normal(len(mean)))
    y = mean + 1.2 * std * generator.standard_normal(len(mean))
    x = np.stack([mean - std, mean + std, mean], 1)
    known, new = slice(0, ITEMS), slice(ITEMS, None)
    arrays = {"mean": mean, "std": std, "lower": x[:, 0], "upper": x[:, 1]}
    tensors = {name: torch.from_numpy(v) for name, v in arrays.items()}
    ends = {}
    for score in intervals.SCORES:
        base = intervals.base_of(score, tensors)
        limit = quantile.threshold(base.scores(torch.from_numpy(y)).numpy()[known], level)
        ends[score] = np.stack([end.numpy() for end in base.interval(limit)], 1)[new]
    made = ConformalizedQuantileRegressor(
        [Column(0), Column(1), Column(2)], confidence_level=level, prefit=True
    )
    made.conformalize(x[known], y[known])
    found = made.predict_interval(x[new], symmetric_correction=True)[1][:, :, 0]
    line("cqr", "MAPIE", None, float(np.abs(found - ends["cqr"]).max()))
    modules("torchcp.regression", "torchcp.regression.score")
    from torchcp.utils.common import calculate_conformal_value

    scores = torch.from_numpy(np.abs(y - mean)[known] / std[known])
    at = float(calculate_conformal_value(scores, 1 - level))
    found = np.stack([mean - at * std, mean + at * std], 1)[new]
    line("normalised", "torchcp's threshold", None, float(np.abs(found - ends["normalised"]).max()))


def line(kind: str, peer: str, threshold: float | None, differ: float) -> None:
    """Print one comparison."""
    shown = "" if threshold is None else f"{threshold:.2e}"
    print(f"{kind:12}{peer:22}{shown:>12}{differ:12.3g}{TESTED:8}", flush=True)


if __name__ == "__main__":
    for coverage in (0.8, 0.9, 0.95):
        print(f"coverage {coverage}")
        probabilities(coverage)
        values(coverage)
