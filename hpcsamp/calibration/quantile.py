"""Compute the threshold of split conformal prediction and the coverage that it guarantees.

If the n scores of the calibration items and the score of a new item are exchangeable, the new one
is at most the k-th smallest of the n with probability at least ``k / (n + 1)``, and with exactly
this probability if no two scores are equal (Vovk et al. 2005; Angelopoulos & Bates 2023, section
1.1). For a coverage of ``level``, k is ``ceil((n + 1) level)``.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np

from hpcsamp.errors import DataError, UsageError

TOLERANCE = 1e-9
"""Relative difference below which scores count as equal. The threshold is itself one of the
scores, and every grid of ranks must treat that score in the same way."""


def rank(n: int, level: float) -> int:
    """Return ``ceil((n + 1) level)``, with the level taken as a decimal number.

    In floating point ``100 * 0.55`` is above 55, and the rank would be 56.
    """
    return math.ceil((n + 1) * Fraction(repr(float(level))))


def coverage(n: int, level: float) -> float:
    """Return the probability ``ceil((n + 1) level) / (n + 1)`` that a new item is covered."""
    return rank(n, level) / (n + 1)


def smallest(level: float) -> int:
    """Return the smallest number of calibration items for which the threshold is finite."""
    exact = Fraction(repr(float(level)))
    return math.ceil(exact / (1 - exact))


def check_level(level: float) -> None:
    """Refuse a coverage that is not between 0 and 1.

    Raises
    ------
    UsageError
        If the coverage is not between 0 and 1; the message shows it.
    """
    if not 0 < level < 1:
        raise UsageError(f"--coverage {level:g} must be between 0 and 1")


def threshold(scores: np.ndarray, level: float, where: str = "the calibration set") -> np.ndarray:
    """Return the threshold of each column of scores.

    Parameters
    ----------
    scores
        ``(n, ...)`` scores of the calibration items, larger for less typical values; NaN for
        unknown targets.
    level
        Requested coverage.
    where
        Name of the calibration set, for messages.

    Returns
    -------
    ndarray
        ``(...)``: the ``ceil((n + 1) level)``-th smallest known score.

    Raises
    ------
    DataError
        If there are fewer known scores than the level needs; the message contains both numbers.
    """
    known = (~np.isnan(scores)).sum(0)
    fewest, needed = int(np.min(known, initial=len(scores))), smallest(level)
    if fewest < needed:
        raise DataError(
            f"{where} has {fewest} items with a known target, but a coverage of {level:g} needs at "
            f"least {needed}; choose a larger set or a coverage of at most "
            f"{fewest / (fewest + 1):.4g}"
        )
    ordered = np.sort(scores, axis=0)  # NaN is at the end
    at = np.vectorize(lambda n: rank(int(n), level) - 1, otypes=[np.int64])(known)
    found: np.ndarray = np.take_along_axis(ordered, np.asarray(at)[None], axis=0)[0]
    return found


def at_most(scores: Any, limit: Any, size: Any = 1.0) -> Any:
    """Return whether scores are at most a limit, up to rounding.

    Parameters
    ----------
    size
        Magnitude of the values whose differences are the scores.
    """
    return scores <= limit + TOLERANCE * size
