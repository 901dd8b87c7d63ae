"""Statistics per channel, from parts that never meet: exact to rounding at any mean.

Parts are combined by the pairwise update of Chan, Golub and LeVeque (1979); a sum of squares would
lose everything at mean 300 and standard deviation 1e-3.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from hpcsamp.data.manifest import Stats


@dataclass(frozen=True)
class Moments:
    """Count, mean, centred sum of squares, minimum and maximum per channel.

    Attributes
    ----------
    count
        Values per channel.
    mean, m2, low, high
        float64 of shape ``(channels,)``; ``m2`` is the sum of squared deviations from ``mean``.
    """

    count: int
    mean: np.ndarray
    m2: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray) -> Moments:
        """Moments of items.

        Parameters
        ----------
        values
            Shape ``(n, C, ...)``: axis 1 holds the channels or features. Shape ``(n,)`` counts as
            one channel.
        """
        flat = np.asarray(values, np.float64)
        flat = flat.reshape(len(flat), 1, -1) if flat.ndim == 1 else flat
        flat = flat.reshape(*flat.shape[:2], -1)
        mean = flat.mean(axis=(0, 2))
        m2 = ((flat - mean[:, None]) ** 2).sum(axis=(0, 2))
        low, high = flat.min(axis=(0, 2)), flat.max(axis=(0, 2))
        return cls(flat.shape[0] * flat.shape[2], mean, m2, low, high)

    def __add__(self, other: Moments) -> Moments:
        count = self.count + other.count
        step = other.mean - self.mean
        return Moments(
            count,
            self.mean + step * (other.count / count),
            self.m2 + other.m2 + step**2 * (self.count * other.count / count),
            np.minimum(self.low, other.low),
            np.maximum(self.high, other.high),
        )

    def stats(self) -> Stats:
        """Mean, standard deviation (population), minimum, maximum."""
        return Stats(
            mean=self.mean.tolist(),
            std=np.sqrt(self.m2 / self.count).tolist(),
            min=self.low.tolist(),
            max=self.high.tolist(),
            count=self.count,
        )

    def to_json(self) -> dict[str, object]:
        """For a note between two passes over the data."""
        return {"count": self.count} | {
            k: getattr(self, k).tolist() for k in ("mean", "m2", "low", "high")
        }

    @classmethod
    def from_json(cls, told: dict) -> Moments:
        """What :meth:`to_json` wrote."""
        arrays = {k: np.asarray(told[k], np.float64) for k in ("mean", "m2", "low", "high")}
        return cls(int(told["count"]), **arrays)


def combine(parts: Iterable[Moments]) -> Moments:
    """Moments of everything, added in the order given (so the same on any number of ranks)."""
    parts = iter(parts)
    total = next(parts)
    for part in parts:
        total = total + part
    return total
