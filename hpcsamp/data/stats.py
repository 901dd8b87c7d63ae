"""Mean, standard deviation, minimum and maximum per channel, from parts on different ranks.

Parts are combined by the pairwise update of Chan, Golub and LeVeque (1979), which is exact to
rounding at any mean; a sum of squares would lose all digits at mean 300 and standard deviation
1e-3.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpcsamp.data.manifest import Stats
from hpcsamp.errors import DataError

LARGEST, SMALLEST = 1e100, 1e-100
"""Bounds of values and of standard deviations whose squares fit well into float64."""

AT_ONCE = 4 * 2**20
"""Largest number of values of an item whose moments are computed at once; larger items are
processed channel by channel, so that float64 copies hold only a part of them."""

COARSE = 0.01
"""Largest step between neighbouring float32 numbers, in standard deviations."""


@dataclass(frozen=True)
class Moments:
    """Count, mean, centred sum of squares, minimum and maximum per channel.

    Attributes
    ----------
    count
        Number of values per channel: an integer, or a float64 array of shape ``(channels,)`` if
        values may be missing.
    mean, m2, low, high
        float64 of shape ``(channels,)``; ``m2`` is the sum of squared deviations from ``mean``. For
        a channel without values, ``mean`` and ``m2`` are 0, ``low`` is infinity and ``high`` minus
        infinity.
    """

    count: Any
    mean: np.ndarray
    m2: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray) -> Moments:
        """Compute the moments of items.

        Parameters
        ----------
        values
            Shape ``(n, C, ...)``: axis 1 holds the channels or features. Shape ``(n,)`` is treated
            as one channel.
        """
        if _large(values):
            return _joined([cls.of(values[:, c : c + 1]) for c in range(values.shape[1])])
        flat = np.asarray(values, np.float64)
        flat = flat.reshape(len(flat), 1, -1) if flat.ndim == 1 else flat
        flat = flat.reshape(*flat.shape[:2], -1)
        low, high = flat.min(axis=(0, 2)), flat.max(axis=(0, 2))
        count = flat.shape[0] * flat.shape[2]
        with np.errstate(over="ignore", invalid="ignore"):  # check_stats refuses the result
            mean = flat.mean(axis=(0, 2))
            apart = flat - mean[:, None]
            rest = apart.mean(axis=(0, 2))  # rounding error of the mean
            m2 = (apart**2).sum(axis=(0, 2)) - count * rest**2
        return cls(count, np.clip(mean + rest, low, high), np.maximum(m2, 0), low, high)

    @classmethod
    def of_known(cls, values: np.ndarray) -> Moments:
        """Compute the moments of the values that are not NaN; ``values`` as in :meth:`of`."""
        if _large(values):
            return _joined([cls.of_known(values[:, c : c + 1]) for c in range(values.shape[1])])
        flat = np.asarray(values, np.float64)
        flat = flat.reshape(len(flat), 1, -1) if flat.ndim == 1 else flat
        flat = flat.reshape(*flat.shape[:2], -1)
        there = ~np.isnan(flat)
        count = there.sum(axis=(0, 2), dtype=np.float64)
        low = np.where(there, flat, np.inf).min(axis=(0, 2), initial=np.inf)
        high = np.where(there, flat, -np.inf).max(axis=(0, 2), initial=-np.inf)
        at_least = np.maximum(count, 1)
        with np.errstate(over="ignore", invalid="ignore"):
            mean = np.where(there, flat, 0).sum(axis=(0, 2)) / at_least
            apart = np.where(there, flat - mean[:, None], 0)
            rest = apart.sum(axis=(0, 2)) / at_least
            m2 = (apart**2).sum(axis=(0, 2)) - count * rest**2
        mean = np.where(count > 0, np.clip(mean + rest, low, high), 0)
        return cls(count, mean, np.maximum(m2, 0), low, high)

    def __add__(self, other: Moments) -> Moments:
        count = self.count + other.count
        at_least = np.maximum(count, 1) if isinstance(count, np.ndarray) else count
        with np.errstate(over="ignore", invalid="ignore"):
            step = other.mean - self.mean
            m2 = self.m2 + other.m2 + step**2 * (self.count * other.count / at_least)
        return Moments(
            count,
            self.mean + step * (other.count / at_least),
            m2,
            np.minimum(self.low, other.low),
            np.maximum(self.high, other.high),
        )

    def stats(self) -> Stats:
        """Mean, standard deviation (population; exactly 0 for a constant), minimum and maximum.

        If values are missing, the count is that of the channel with the fewest values.
        """
        constant = self.low == self.high
        return Stats(
            mean=np.where(constant, self.low, self.mean).tolist(),
            std=np.where(constant, 0, np.sqrt(self.m2 / np.maximum(self.count, 1))).tolist(),
            min=self.low.tolist(),
            max=self.high.tolist(),
            count=int(np.min(self.count)),
        )

    def to_json(self) -> dict[str, object]:
        """Convert to a JSON object, which is stored between two passes over the data."""
        return {"count": np.asarray(self.count).tolist()} | {
            k: getattr(self, k).tolist() for k in ("mean", "m2", "low", "high")
        }

    @classmethod
    def from_json(cls, table: dict) -> Moments:
        """Convert from a JSON object, the inverse of :meth:`to_json`."""
        arrays = {k: np.asarray(table[k], np.float64) for k in ("mean", "m2", "low", "high")}
        count = np.asarray(table["count"], np.float64)
        return cls(count if count.ndim else int(table["count"]), **arrays)


def _large(values: np.ndarray) -> bool:
    """Whether this is a single large item, which is processed channel by channel."""
    return len(values) == 1 and values.ndim > 2 and values.shape[1] > 1 and values.size > AT_ONCE


def _joined(channels: Sequence[Moments]) -> Moments:
    """Concatenate the moments of channels."""
    arrays = {
        key: np.concatenate([getattr(m, key) for m in channels])
        for key in ("mean", "m2", "low", "high")
    }
    counts = [m.count for m in channels]
    each = isinstance(counts[0], np.ndarray)
    return Moments(np.concatenate(counts) if each else counts[0], **arrays)


def combine(parts: Iterable[Moments]) -> Moments:
    """Combine the moments of parts in the given order, so that no grid changes the result."""
    parts = iter(parts)
    total = next(parts)
    for part in parts:
        total = total + part
    return total


def check_largest(values: np.ndarray, names: Sequence[str], where: str) -> None:
    """Refuse values with a magnitude above :data:`LARGEST`.

    Parameters
    ----------
    values
        Items, shape ``(n, C, ...)`` or ``(n,)``.
    names
        Names of the channels; may be empty.

    Raises
    ------
    DataError
        If there are any; the message names the channel and the value.
    """
    if values.dtype.kind != "f" or values.dtype.itemsize <= 4 or not values.size:
        return
    if max(abs(float(values.min())), abs(float(values.max()))) > LARGEST:
        at = np.argwhere(np.abs(values) > LARGEST)[0]
        name = _channel(names, int(at[1]) if len(at) > 1 else 0)
        raise DataError(
            f"{where}: {name} holds {values[tuple(at)]:g}, but magnitudes above {LARGEST:g} are "
            "not supported: rescale the data"
        )


def check_stats(stats: Stats, names: Sequence[str], where: str) -> None:
    """Refuse channels that cannot be standardised.

    Parameters
    ----------
    names
        Names of the channels; may be empty.

    Raises
    ------
    DataError
        If there are any; the message names the first such channel and its range.
    """
    mean, std, low, high = (np.asarray(v) for v in (stats.mean, stats.std, stats.min, stats.max))
    largest = np.maximum(np.abs(low), np.abs(high))
    far = ~np.isfinite(mean) | ~np.isfinite(std) | (largest > LARGEST)
    close = (low < high) & ~(std > SMALLEST)
    for bad, fault in (
        (far, f"values with magnitude above {LARGEST:g} cannot be standardised"),
        (close, f"values with a standard deviation below {SMALLEST:g} cannot be standardised"),
    ):
        if bad.any():
            at = int(np.flatnonzero(bad)[0])
            raise DataError(
                f"{where}: {_channel(names, at)} holds values from {low[at]:g} to {high[at]:g}; "
                f"{fault}: rescale the data"
            )


def check_digits(stats: Stats, names: Sequence[str], where: str) -> None:
    """Refuse targets whose variation float32 cannot resolve unless they are standardised.

    Raises
    ------
    DataError
        If there are any; the message names the first such channel, its largest value and its
        standard deviation.
    """
    std = np.asarray(stats.std)
    largest = np.maximum(np.abs(stats.min), np.abs(stats.max))
    with np.errstate(over="ignore", invalid="ignore"):
        step = np.spacing(largest.astype(np.float32))
    bad = (std > 0) & ~(step < COARSE * std)
    if bad.any():
        at = int(np.flatnonzero(bad)[0])
        raise DataError(
            f"{where}: {_channel(names, at)} reaches {largest[at]:g} with a standard deviation of "
            f"{std[at]:g}, which float32 cannot resolve; use --normalize-y"
        )


def _channel(names: Sequence[str], at: int) -> str:
    return f"column {names[at]!r}" if at < len(names) else f"channel {at}"
