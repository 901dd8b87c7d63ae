"""Metrics of the order of items (AUROC, FPR, risk-coverage), which need the scores of all items.

Scores are compared to ten digits: scores that differ by less are tied, and ties are averaged, so
that neither rounding nor the number of ranks changes a result. A score that is a difference of
larger numbers has a ``resolution``; smaller differences are rounding errors. Infinite scores are
above (or below) all others and tie with each other; NaN scores are refused.
"""

from __future__ import annotations

import math

import numpy as np

from hpcsamp.errors import DivergedError


def _rounded(score: np.ndarray, resolution: float) -> np.ndarray:
    """Round scores to multiples of the resolution, and to 33 binary digits each.

    Raises
    ------
    DivergedError
        If some scores are NaN.
    """
    score = np.array(score, np.float64)
    undefined = int(np.isnan(score).sum())
    if undefined:
        raise DivergedError(f"{undefined} of {score.size} scores are NaN and cannot be ordered")
    near = np.abs(score) < resolution * 2.0**53  # the others have no digits below it
    score[near] = np.round(score[near] / resolution) * resolution
    mantissa, exponent = np.frexp(score)
    return np.ldexp(np.round(mantissa * 2.0**33), exponent - 33)


def auroc(inside: np.ndarray, outside: np.ndarray, resolution: float = 0.0) -> float:
    """Area under the ROC curve (AUROC) of a score that separates outside from inside items.

    ``P(outside > inside) + P(outside = inside) / 2``, the Mann-Whitney statistic (Hanley & McNeil
    1982): 1 if every outside item scores higher, 1/2 if the score carries no information.

    Parameters
    ----------
    inside, outside
        Scores ``(n,)`` and ``(m,)``; an outside item should have the larger one.
    resolution
        Scores that round to the same multiple of it are tied; 0 for no rounding.
    """
    if not len(inside) or not len(outside):
        return math.nan
    both = _rounded(np.concatenate([inside, outside]), resolution)
    low = np.sort(both[: len(inside)])
    below = np.searchsorted(low, both[len(inside) :], "left")
    up_to = np.searchsorted(low, both[len(inside) :], "right")
    return float((below + up_to).sum() / (2 * len(inside) * len(outside)))


def fpr_at(
    inside: np.ndarray, outside: np.ndarray, rate: float = 0.95, resolution: float = 0.0
) -> float:
    """Compute the fraction of outside items accepted (FPR) if ``rate`` of the inside items are.

    An item is accepted if its score is at most the smallest threshold that accepts ``rate`` of the
    inside items (FPR at 95 % TPR, Hendrycks & Gimpel 2017; inside is the positive class).

    Parameters
    ----------
    inside, outside
        Scores ``(n,)`` and ``(m,)``; an outside item should have the larger one.
    resolution
        Scores that round to the same multiple of it are tied; 0 for no rounding.
    """
    if not len(inside) or not len(outside):
        return math.nan
    both = _rounded(np.concatenate([inside, outside]), resolution)
    need = math.ceil(rate * len(inside) - 1e-9)
    threshold = np.sort(both[: len(inside)])[need - 1]
    return float((both[len(inside) :] <= threshold).mean())


def risk_coverage(risk: np.ndarray, score: np.ndarray, resolution: float = 0.0) -> np.ndarray:
    """Risk-coverage curve: mean risk of the k items with the lowest scores, for k = 1 .. n.

    The order within a tie is random, so the expectation over orders is returned.

    Parameters
    ----------
    risk
        ``(n,)``, e.g. 1 for a wrong prediction and 0 for a correct one.
    score
        ``(n,)`` uncertainties.
    resolution
        Scores that round to the same multiple of it are tied; 0 for no rounding.

    Returns
    -------
    ndarray
        ``(n,)``; the last entry is the mean risk of all items.
    """
    rounded = _rounded(score, resolution)
    _, tie, size = np.unique(rounded, return_inverse=True, return_counts=True)
    average = np.bincount(tie, weights=risk) / size
    return np.cumsum(np.repeat(average, size)) / np.arange(1, len(risk) + 1)


def selective(curve: np.ndarray) -> dict[str, float]:
    """Compute the AURC (El-Yaniv & Wiener 2010; Geifman et al. 2019, eq. 3) and risks at coverages.

    Parameters
    ----------
    curve
        As returned by :func:`risk_coverage`.
    """
    n = len(curve)
    at = {f"risk_{q}": float(curve[max(1, round(n * q / 100)) - 1]) for q in (50, 80, 90)}
    return {"aurc": float(curve.mean())} | at
