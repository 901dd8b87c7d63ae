"""Runs of a flattened tensor: where the numbers that a rank holds of it lie in the whole.

Pure functions of shapes. Parts of model ranks, rows of members and shards of sample ranks are all
runs, and so is what two ranks have in common; so a checkpoint that was written on one grid is read
on any other.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True, eq=False)
class Runs:
    """Some numbers of a flattened whole, in its order.

    Attributes
    ----------
    shape
        Of the whole tensor.
    bounds
        ``(k, 2)`` int64: start and stop of each run, ascending and apart from each other.
    """

    shape: tuple[int, ...]
    bounds: np.ndarray

    @classmethod
    def of(cls, shape: Iterable[int], runs: Iterable[Sequence[int]]) -> Runs:
        """Runs as they are given, neighbours joined and empty ones left out."""
        bounds = np.array(list(runs), dtype=np.int64).reshape(-1, 2)
        return cls(tuple(shape), _joined(bounds))

    @classmethod
    def whole(cls, shape: Iterable[int]) -> Runs:
        """All of a tensor."""
        shape = tuple(shape)
        return cls.of(shape, [(0, math.prod(shape))])

    @classmethod
    def repeated(cls, shape: Iterable[int], runs: Iterable[Sequence[int]], length: int) -> Runs:
        """The same runs in each stretch of ``length`` numbers of the flattened whole."""
        shape = tuple(shape)
        one = np.array(list(runs), dtype=np.int64).reshape(-1, 2)
        starts = np.arange(math.prod(shape) // length if length else 0, dtype=np.int64) * length
        return cls(shape, _joined((starts[:, None, None] + one[None]).reshape(-1, 2)))

    @cached_property
    def size(self) -> int:
        """How many numbers they are."""
        return int((self.bounds[:, 1] - self.bounds[:, 0]).sum())

    @property
    def is_whole(self) -> bool:
        """Whether nothing is missing."""
        return self.size == math.prod(self.shape)

    @cached_property
    def _before(self) -> np.ndarray:
        """``(k + 1,)`` how many numbers are in the runs before each."""
        return np.concatenate([[0], (self.bounds[:, 1] - self.bounds[:, 0]).cumsum()])

    def within(self, start: int, stop: int) -> Runs:
        """The numbers ``start ... stop - 1`` of those that these are."""
        first = np.maximum(self._before[:-1], start)
        last = np.minimum(self._before[1:], stop)
        shift = self.bounds[:, 0] - self._before[:-1]
        return Runs(self.shape, _joined(np.stack([first + shift, last + shift], axis=1)))

    def meeting(self, other: Runs) -> Iterator[tuple[int, int, int]]:
        """What both have: ``(i, j, n)``, where ``n`` numbers from the ``i``-th of these on are
        those from the ``j``-th of the other on.
        """
        a, b = self.bounds, other.bounds
        first = np.searchsorted(b[:, 1], a[:, 0], side="right")
        last = np.searchsorted(b[:, 0], a[:, 1], side="left")
        for i in np.flatnonzero(first < last).tolist():
            lo, hi, own = int(a[i, 0]), int(a[i, 1]), int(self._before[i])
            for j in range(int(first[i]), int(last[i])):
                low, high = int(b[j, 0]), int(b[j, 1])
                start, stop = max(lo, low), min(hi, high)
                yield own + start - lo, int(other._before[j]) + start - low, stop - start


def cover(parts: Iterable[Runs]) -> bool:
    """Whether parts of a tensor make up the whole, and no number is in two of them."""
    each = list(parts)
    bounds = np.concatenate([part.bounds for part in each])
    bounds = bounds[np.argsort(bounds[:, 0], kind="stable")]
    apart = bool((bounds[1:, 0] == bounds[:-1, 1]).all())
    return apart and sum(part.size for part in each) == math.prod(each[0].shape)


def _joined(bounds: np.ndarray) -> np.ndarray:
    """Ascending runs without empty ones, and with those joined that go on where one ends."""
    bounds = bounds[bounds[:, 1] > bounds[:, 0]]
    new = np.ones(len(bounds), dtype=bool)
    new[1:] = bounds[1:, 0] != bounds[:-1, 1]
    ends = np.append(np.flatnonzero(new)[1:] - 1, len(bounds) - 1)[: int(new.sum())]
    return np.stack([bounds[new, 0], bounds[ends, 1]], axis=1)
