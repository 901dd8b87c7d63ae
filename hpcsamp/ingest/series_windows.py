"""Windows of time series: which of them a split has, and their inputs and targets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from hpcsamp.ingest.series_axis import Axis
from hpcsamp.ingest.source import Source

Gaps = Literal["drop", "mask"]


@dataclass
class SeriesSource(Source):
    """Windows of one or more series.

    Attributes
    ----------
    values
        Target of each series on the common axis, ``(series, times)``; NaN where missing.
    covariates
        Inputs that are known in advance, ``(series or 1, covariates, times)``.
    windows
        Series and first position of each window, ``(windows, 2)`` by split.
    axis, past
        The axis, and the number of past values of a window.
    fill
        Value, for each series, that replaces missing values and those not known yet.
    """

    values: np.ndarray = field(default_factory=lambda: np.empty((0, 0)))
    covariates: np.ndarray = field(default_factory=lambda: np.empty((1, 0, 0)))
    windows: dict[str, np.ndarray] = field(default_factory=dict)
    axis: Axis | None = None
    past: int = 0
    fill: np.ndarray = field(default_factory=lambda: np.empty(0))

    def read(self, split: str, start: int, stop: int) -> Mapping[str, np.ndarray]:
        """See :class:`~hpcsamp.ingest.source.Source`."""
        assert self.axis is not None
        of, begin = self.windows[split][start:stop].T
        at = begin[:, None] + np.arange(self.past + self.arrays["y"].shape[0])
        values = self.values[of[:, None], at]
        origin = self.axis.first + self.axis.step * (begin + self.past - 1)
        found = {
            "y": values[:, self.past :].astype(np.float32),
            "origin": origin.astype(np.float64) / 60,
            "series": of.astype(np.float64),
        }
        if len(self.arrays["x"].shape) == 1:
            return found | {"x": values[:, : self.past].astype(np.float32)}
        own = self.covariates[of if len(self.covariates) > 1 else np.zeros_like(of)]
        more = np.take_along_axis(own, at[:, None, :], axis=2)
        made = inputs(values, more, self.fill[of], self.past)
        return found | {"x": made.astype(np.float32)}


def inputs(values: np.ndarray, more: np.ndarray, fill: np.ndarray, past: int) -> np.ndarray:
    """Return the inputs of windows, ``(n, 2 + covariates, length)``.

    Parameters
    ----------
    values
        ``(n, length)`` target; NaN where it is missing. Only the first ``past`` values are used.
    more
        ``(n, covariates, length)``.
    fill
        ``(n,)`` values in place of those that are missing or not known yet.
    """
    known = np.isfinite(values) & (np.arange(values.shape[1]) < past)
    rows = [np.where(known, values, fill[:, None]), known.astype(np.float64)]
    return np.concatenate([np.stack(rows, 1), more], 1)


def windows_of(
    values: np.ndarray,
    covariates: np.ndarray,
    ends: Mapping[str, int],
    past: int,
    future: int,
    every: int,
    missing: Gaps,
) -> tuple[dict[str, np.ndarray], int]:
    """Return the windows of each split that can be used, and the number of those that cannot.

    Windows begin at multiples of ``every`` from the first time of the series, in all splits: with
    one window a day, all forecasts begin at the same time of day.

    Parameters
    ----------
    values, covariates
        See :class:`SeriesSource`.
    ends
        Position after the last one of each split, in order of time.
    """
    length, low, left = past + future, 0, 0
    found: dict[str, np.ndarray] = {}
    for split, high in ends.items():
        begin = np.arange(-(-low // every) * every, high - length + 1, every)
        kept = []
        for series, own in enumerate(values):
            known = _counts(np.isfinite(own))
            several = covariates[series if len(covariates) > 1 else 0]
            whole = _counts(np.isfinite(several).all(0))
            back, ahead = (
                known[begin + past] - known[begin],
                known[begin + length] - known[begin + past],
            )
            good = whole[begin + length] - whole[begin] == length
            if missing == "drop":
                good &= back + ahead == length
            else:
                good &= (back > 0) & (ahead > 0)
            of = np.full(int(good.sum()), series)
            kept.append(np.stack([of, begin[good]], axis=1))
            left += int((~good).sum())
        if any(map(len, kept)):
            found[split] = np.concatenate(kept)
        low = high
    return found, left


def _counts(flags: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(flags)])
