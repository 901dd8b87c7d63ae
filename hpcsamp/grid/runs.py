"""Runs of a flattened tensor: positions of the elements that a rank holds in the whole.

Pure functions of shapes. Parts of model ranks, rows of members and shards of sample ranks are all
runs, and so is the intersection of two of them. A checkpoint written on one grid can therefore be
read on any other.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True, eq=False)
class Runs:
    """A subset of the elements of a flattened tensor, in order.

    Attributes
    ----------
    shape
        Shape of the whole tensor.
    bounds
        ``(k, 2)`` int64: start and stop of each run, ascending and separate.
    """

    shape: tuple[int, ...]
    bounds: np.ndarray

    @classmethod
    def of(cls, shape: Iterable[int], runs: Iterable[Sequence[int]]) -> Runs:
        """Create runs; adjacent ones are joined and empty ones removed."""
        bounds = np.array(list(runs), dtype=np.int64).reshape(-1, 2)
        return cls(tuple(shape), _joined(bounds))

    @classmethod
    def whole(cls, shape: Iterable[int]) -> Runs:
        """Return the single run of a whole tensor."""
        shape = tuple(shape)
        return cls.of(shape, [(0, math.prod(shape))])

    @classmethod
    def repeated(cls, shape: Iterable[int], runs: Iterable[Sequence[int]], length: int) -> Runs:
        """Repeat the runs in each section of ``length`` elements of the flattened tensor."""
        shape = tuple(shape)
        one = np.array(list(runs), dtype=np.int64).reshape(-1, 2)
        starts = np.arange(math.prod(shape) // length if length else 0, dtype=np.int64) * length
        return cls(shape, _joined((starts[:, None, None] + one[None]).reshape(-1, 2)))

    @cached_property
    def size(self) -> int:
        """Number of elements in all runs."""
        return int((self.bounds[:, 1] - self.bounds[:, 0]).sum())

    @property
    def is_whole(self) -> bool:
        """Whether the runs cover the whole tensor."""
        return self.size == math.prod(self.shape)

    @cached_property
    def _before(self) -> np.ndarray:
        """``(k + 1,)`` numbers of elements in the runs before each run."""
        return np.concatenate([[0], (self.bounds[:, 1] - self.bounds[:, 0]).cumsum()])

    def within(self, start: int, stop: int) -> Runs:
        """Return the elements at positions ``start ... stop - 1`` of this subset."""
        first = np.maximum(self._before[:-1], start)
        last = np.minimum(self._before[1:], stop)
        shift = self.bounds[:, 0] - self._before[:-1]
        return Runs(self.shape, _joined(np.stack([first + shift, last + shift], axis=1)))

    def meeting(self, other: Runs) -> Iterator[tuple[int, int, int]]:
        """Yield the stretches that this subset has in common with another, as ``(i, j, n)``.

        The ``n`` elements from position ``i`` of this subset are those from position ``j`` of the
        other.
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
    """Whether parts of a tensor cover it completely and without overlap."""
    each = list(parts)
    bounds = np.concatenate([part.bounds for part in each])
    bounds = bounds[np.argsort(bounds[:, 0], kind="stable")]
    apart = bool((bounds[1:, 0] == bounds[:-1, 1]).all())
    return apart and sum(part.size for part in each) == math.prod(each[0].shape)


def _joined(bounds: np.ndarray) -> np.ndarray:
    """Remove empty runs and join adjacent ones; the input is ascending."""
    bounds = bounds[bounds[:, 1] > bounds[:, 0]]
    new = np.ones(len(bounds), dtype=bool)
    new[1:] = bounds[1:, 0] != bounds[:-1, 1]
    ends = np.append(np.flatnonzero(new)[1:] - 1, len(bounds) - 1)[: int(new.sum())]
    return np.stack([bounds[new, 0], bounds[ends, 1]], axis=1)
