"""Metrics of the order of items: they need the scores of all of them, one number per item.

Scores are compared to ten decimals of the largest: what differs by less is a tie, and ties count by
their average, so that rounding (and with it the number of ranks) decides nothing.
"""

from __future__ import annotations

import math

import numpy as np


def _places(score: np.ndarray) -> np.ndarray:
    """Scores as whole numbers of 1e-10 of the largest."""
    size = np.abs(score).max(initial=0.0)
    return np.round(score / (size if size > 0 else 1.0) * 1e10)


def auroc(inside: np.ndarray, outside: np.ndarray) -> float:
    """Area under the ROC curve of telling two sets apart by a score.

    ``P(outside > inside) + P(outside = inside) / 2``, the Mann-Whitney statistic (Hanley & McNeil
    1982): 1 if every outside item scores higher, 1/2 if the score says nothing.

    Parameters
    ----------
    inside, outside
        Scores ``(n,)`` and ``(m,)``; an outside item should have the larger one.
    """
    if not len(inside) or not len(outside):
        return math.nan
    both = _places(np.concatenate([inside, outside]))
    low = np.sort(both[: len(inside)])
    below = np.searchsorted(low, both[len(inside) :], "left")
    up_to = np.searchsorted(low, both[len(inside) :], "right")
    return float((below + up_to).sum() / (2 * len(inside) * len(outside)))


def fpr_at(inside: np.ndarray, outside: np.ndarray, rate: float = 0.95) -> float:
    """Fraction of outside items that pass where ``rate`` of the inside ones pass.

    An item passes if its score is at most the smallest threshold that lets ``rate`` of the inside
    items pass (FPR at 95 % TPR, Hendrycks & Gimpel 2017; inside is the positive class).

    Parameters
    ----------
    inside, outside
        Scores ``(n,)`` and ``(m,)``; an outside item should have the larger one.
    """
    if not len(inside) or not len(outside):
        return math.nan
    both = _places(np.concatenate([inside, outside]))
    need = math.ceil(rate * len(inside) - 1e-9)
    threshold = np.sort(both[: len(inside)])[need - 1]
    return float((both[len(inside) :] <= threshold).mean())


def risk_coverage(risk: np.ndarray, score: np.ndarray) -> np.ndarray:
    """Mean risk of the k items of the lowest score, for k = 1 .. n.

    Within a tie the order is a matter of chance; its expectation is what counts.

    Parameters
    ----------
    risk
        ``(n,)``, e.g. 1 for a wrong item and 0 for a right one.
    score
        ``(n,)`` uncertainties.

    Returns
    -------
    ndarray
        ``(n,)``; the last one is the mean risk of all.
    """
    _, tie, size = np.unique(_places(score), return_inverse=True, return_counts=True)
    average = np.bincount(tie, weights=risk) / size
    return np.cumsum(np.repeat(average, size)) / np.arange(1, len(risk) + 1)


def selective(curve: np.ndarray) -> dict[str, float]:
    """AURC (El-Yaniv & Wiener 2010; Geifman et al. 2019, eq. 3) and risks at coverages.

    Parameters
    ----------
    curve
        As :func:`risk_coverage` gives it.
    """
    n = len(curve)
    at = {f"risk_{q}": float(curve[max(1, round(n * q / 100)) - 1]) for q in (50, 80, 90)}
    return {"aurc": float(curve.mean())} | at
