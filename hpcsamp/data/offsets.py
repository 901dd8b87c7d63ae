"""Compact description of the file offsets of the chunks of an array."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import Field

from hpcsamp.data.roles import ManifestPart


class Offsets(ManifestPart):
    """File offsets of the chunks of one array in one shard, in chunk order.

    Uncompressed chunks usually lie at equal distances and are described by ``start`` and ``step``;
    chunks that are slabs are described by ``runs`` of (start, step, count); any others are
    ``listed``.
    """

    count: int = Field(ge=0)
    start: int | None = None
    step: int | None = None
    listed: list[int] | None = None
    runs: list[tuple[int, int, int]] | None = None

    @classmethod
    def of(cls, offsets: Sequence[int], *, in_slabs: bool = False) -> Offsets:
        """The shortest description of ``offsets``; runs are used only if chunks are slabs."""
        values = np.asarray(offsets, np.int64)
        steps = np.diff(values)
        if len(values) and (len(steps) == 0 or (steps == steps[0]).all()):
            step = int(steps[0]) if len(steps) else 0
            return cls(count=len(values), start=int(values[0]), step=step)
        if in_slabs:
            runs = _runs(values)
            if 3 * len(runs) < len(values):
                return cls(count=len(values), runs=runs)
        return cls(count=len(values), listed=[int(v) for v in values])

    def array(self) -> np.ndarray:
        """The offsets in bytes, int64 of shape ``(count,)``."""
        if self.listed is not None:
            return np.asarray(self.listed, np.int64)
        if self.runs is not None:
            parts = [start + step * np.arange(count) for start, step, count in self.runs]
            return np.concatenate(parts).astype(np.int64)
        return (self.start or 0) + np.arange(self.count, dtype=np.int64) * (self.step or 0)


def _runs(values: np.ndarray) -> list[tuple[int, int, int]]:
    """Split numbers into runs at equal distances: start, step and count of each run."""
    runs, begin, steps = [], 0, np.diff(values)
    while begin < len(values):
        other = np.flatnonzero(steps[begin:] != steps[begin : begin + 1])
        count = int(other[0]) + 1 if len(other) else len(values) - begin
        step = int(steps[begin]) if count > 1 else 0
        runs.append((int(values[begin]), step, count))
        begin += count
    return runs
