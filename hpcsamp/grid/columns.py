"""Exchange rows for columns: each of P ranks gets all samples of 1/P of the columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from hpcsamp.grid.plan import Over, share


class SampleGroup(Protocol):
    """Operations that are needed from a sample group; see :class:`.Collectives`."""

    sample_size: int
    sample_rank: int

    def size(self, over: Over) -> int:
        """Return the number of ranks."""
        ...

    def all_to_all(self, x: Tensor, counts: Sequence[Sequence[int]], over: Over) -> Tensor:
        """Send a part of a flat tensor to each rank."""

    def sum_(self, x: Tensor, over: Over) -> None:
        """Sum a tensor over the ranks, in place."""


class Columns:
    """Division of the columns of ``(samples, columns, ...)`` tensors among the ranks.

    Parameters
    ----------
    samples, columns
        Sizes of the whole tensor.
    group
        The sample group; rank p holds the rows of its samples.

    Attributes
    ----------
    mine
        The columns of this rank.
    """

    def __init__(self, samples: int, columns: int, group: SampleGroup) -> None:
        ranks = range(group.sample_size)
        self._samples, self._group = samples, group
        self._rows = [len(share(samples, len(ranks), p)) for p in ranks]
        self._columns = [share(columns, len(ranks), p) for p in ranks]
        self.mine = self._columns[group.sample_rank]

    def _counts(self, inner: int) -> list[list[int]]:
        return [[rows * len(c) * inner for c in self._columns] for rows in self._rows]

    def from_rows(self, y: Tensor) -> Tensor:
        """Convert rows ``(s, n, ...)`` of the ranks to ``(S, len(mine), ...)``. Collective."""
        inner = y.shape[2:]
        flat = torch.cat([y[:, c.start : c.stop].reshape(-1) for c in self._columns])
        found = self._group.all_to_all(flat, self._counts(inner.numel()), "sample")
        return found.view(self._samples, len(self.mine), *inner)

    def to_rows(self, z: Tensor) -> Tensor:
        """Return the ``(s, n, ...)`` rows of this rank, the inverse of :meth:`from_rows`."""
        inner, rank = z.shape[2:], self._group.sample_rank
        counts = self._counts(inner.numel())
        returned = [list(row) for row in zip(*counts, strict=True)]
        back = self._group.all_to_all(z.reshape(-1), returned, "sample")
        parts = zip(back.split(counts[rank]), self._columns, strict=True)
        return torch.cat([p.view(self._rows[rank], len(c), *inner) for p, c in parts], 1)
