"""Adaptive conformal inference: intervals of a time series whose distribution drifts.

After each item whose value becomes known, the level of the threshold is corrected
(Gibbs & Candes 2021, eq. 2)::

    alpha_(t+1) = alpha_t + rate (alpha - err_t)         err_t: 1 if value t was not covered

and the threshold is the ``1 - alpha_t`` quantile of the last ``n`` known scores, n being the number
of calibration items. For any series, the fraction that is not covered differs from
``alpha`` by at most ``(max(alpha, 1 - alpha) + rate) / (rate T)`` over T items (proposition 4.1).
"""

from __future__ import annotations

from collections import deque

import numpy as np
import numpy.typing as npt

from hpcsamp.calibration.quantile import TOLERANCE
from hpcsamp.errors import UsageError


def thresholds(
    past: npt.NDArray[np.float64],
    scores: npt.NDArray[np.float64],
    level: float,
    *,
    rate: float = 0.02,
    lag: int = 1,
    known: npt.NDArray[np.int64] | None = None,
) -> npt.NDArray[np.float64]:
    """Return the threshold of each item of a series from the items that were known before it.

    Parameters
    ----------
    past
        ``(n,)`` scores of the calibration items in time order.
    scores
        ``(T,)`` scores of the items in time order; NaN for unknown targets, after which the level
        is not corrected.
    level
        Coverage ``1 - alpha``.
    rate
        Step size of a correction.
    lag
        The value of item t is known when item ``t + lag`` is predicted, e.g. the lead time of a
        forecast.
    known
        ``(T,)``, ascending: number of first items whose values are known when an item is predicted,
        if it does not follow from ``lag``.

    Returns
    -------
    ndarray
        ``(T,)``; infinite where the level rose to 1, and minus infinite where it fell to 0.

    Raises
    ------
    UsageError
        If the rate is not between 0 and 1.
    """
    check_rate(rate)
    window = deque(past[~np.isnan(past)].tolist(), maxlen=max(1, int((~np.isnan(past)).sum())))
    ordered = sorted(window)
    target = alpha = 1 - level
    found, done = np.empty(len(scores)), 0
    for t in range(len(scores)):
        for item in range(done, max(done, t + 1 - lag if known is None else int(known[t]))):
            done = item + 1
            if not np.isnan(scores[item]):
                alpha += rate * (target - (not _covered(scores[item], found[item])))
                ordered = _replaced(ordered, window, float(scores[item]))
        k = int(np.ceil((len(ordered) + 1) * (1 - alpha) - 1e-9))
        found[t] = np.inf if k > len(ordered) else -np.inf if k < 1 else ordered[k - 1]
    return found


def check_rate(rate: float) -> None:
    """Refuse a rate that is not between 0 and 1.

    Raises
    ------
    UsageError
        If the rate is not between 0 and 1, or not a number.
    """
    if not 0 < rate < 1:
        raise UsageError(f"rate {rate:g} is not between 0 and 1")


def covered(
    scores: npt.NDArray[np.float64], limits: npt.NDArray[np.float64]
) -> npt.NDArray[np.bool_]:
    """Return whether each score is at most its threshold, up to rounding."""
    size = np.where(np.isfinite(limits), np.abs(limits), 0.0)
    return np.asarray(scores <= limits + TOLERANCE * size)


def _covered(score: float, limit: float) -> bool:
    return score <= limit + (TOLERANCE * abs(limit) if np.isfinite(limit) else 0.0)


def _replaced(ordered: list[float], window: deque[float], new: float) -> list[float]:
    """Return the sorted scores after replacing the oldest one by a new one."""
    from bisect import bisect_left, insort

    if len(window) == window.maxlen:
        del ordered[bisect_left(ordered, window[0])]
    window.append(new)
    insort(ordered, new)
    return ordered
