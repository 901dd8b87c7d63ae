"""A dataset folder, opened: one split of it, checked against its manifest."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np

from hpcsamp.data.manifest import Inputs, Manifest, Stats, read_manifest
from hpcsamp.data.shard import ShardReader, check_header, check_labels
from hpcsamp.errors import DataError
from hpcsamp.names import Task

SMALL_ITEM, SMALL_ARRAY = 64, 64 * 2**20
"""Bytes of an item and of a whole array up to which it is held in memory."""


class Dataset:
    """One split of a dataset folder.

    Open it with :meth:`open`. Everything here is serial; ranks share batches through a
    :class:`~hpcsamp.data.Loader`.

    Attributes
    ----------
    path
        The folder.
    split
        ``"train"``, ``"valid"``, ``"test"``, ...
    manifest
        All that is known of the set.
    shards
        The shards of this split, in item order.
    order
        By array and axis of an item: at which position each of its entries lies on disk, where a
        batch is to have them in another order. A :class:`~hpcsamp.data.Loader` follows it,
        :meth:`read` does not.
    notes
        Lines for the person who uses the split.
    """

    def __init__(self, path: str | Path, split: str, manifest: Manifest):
        self.path, self.split, self.manifest = Path(path), split, manifest
        if split not in manifest.splits:
            raise DataError(
                f"{self.path} has no split {split!r}, only {', '.join(sorted(manifest.splits))}"
            )
        self.shards = manifest.of_split(split)
        self.order: dict[str, dict[int, np.ndarray]] = {}
        self.notes: list[str] = []
        self._readers: dict[int, ShardReader] = {}

    @classmethod
    def open(cls, path: str | Path, split: str = "train") -> Dataset:
        """Open a split: reads the manifest and compares it with the shards' headers.

        Raises
        ------
        DataError
            If the folder is not a dataset, or a shard is missing, truncated, of another set, or
            disagrees with the manifest; one line that names the file and both numbers.
        """
        dataset = cls(path, split, read_manifest(path))
        for entry in dataset.shards:
            check_header(dataset.path, dataset.manifest, entry)
        return dataset

    def __len__(self) -> int:
        return self.count

    def __repr__(self) -> str:
        x, y = self.manifest.arrays["x"], self.manifest.arrays["y"]
        return f"<{self.path} {self.split}: {self.count} items, x {x.shape}, y {y.shape}>"

    @property
    def count(self) -> int:
        """N, items of the split."""
        return self.manifest.splits[self.split]

    @property
    def x_shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        return tuple(self.manifest.arrays["x"].shape)

    @property
    def y_shape(self) -> tuple[int, ...]:
        """Shape of one target; ``()`` for a label."""
        return tuple(self.manifest.arrays["y"].shape)

    @property
    def x_dtype(self) -> np.dtype:
        """Type of inputs on disk."""
        return np.dtype(self.manifest.arrays["x"].dtype)

    @property
    def y_dtype(self) -> np.dtype:
        """Type of targets on disk."""
        return np.dtype(self.manifest.arrays["y"].dtype)

    @property
    def classes(self) -> int | None:
        """Number of classes, or ``None`` for regression."""
        return self.manifest.classes

    @property
    def task(self) -> Task:
        """``"classification"`` or ``"regression"``."""
        return self.manifest.task

    @property
    def inputs(self) -> Inputs:
        """What ``x`` is: ``"numbers"`` or ``"ids"``."""
        return self.manifest.inputs

    @property
    def uid(self) -> str:
        """Identity of the set."""
        return self.manifest.uid

    @property
    def stats(self) -> Stats:
        """Of ``x`` on train, per channel or feature, in the units of the data.

        Raises
        ------
        DataError
            If inputs are ids.
        """
        if self.inputs == "ids":
            raise DataError(f"{self.path}: its inputs are ids, which have no mean and no deviation")
        return self.manifest.stats["x"]

    @property
    def y_stats(self) -> Stats | None:
        """Of ``y`` on train; ``None`` for labels."""
        return self.manifest.stats.get("y")

    def y_scale(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of the targets of train, in the units of a batch.

        Float64, in the shape of a target; 0 and 1 where batches are standardised, or there are
        labels. What does not vary has the standard deviation 1.
        """
        stats = self.y_stats
        if stats is None or self.manifest.normalize_y:
            return np.zeros(self.y_shape), np.ones(self.y_shape)
        rows = (-1, *[1] * (len(self.y_shape) - 1)) if self.y_shape else ()
        mean, std = (np.asarray(v, np.float64).reshape(rows) for v in (stats.mean, stats.std))
        std = np.where(std > 0, std, 1.0)
        return np.broadcast_to(mean, self.y_shape), np.broadcast_to(std, self.y_shape)

    @cached_property
    def firsts(self) -> np.ndarray:
        """First item of every shard, and ``count`` at the end; int64."""
        return np.asarray([s.first for s in self.shards] + [self.count], np.int64)

    @cached_property
    def chunk_items(self) -> np.ndarray:
        """Items of every chunk of ``x``, in item order (what the pool shuffle permutes)."""
        each = self.manifest.arrays["x"].items_per_chunk
        parts = []
        for shard in self.shards:
            full, rest = divmod(shard.count, each)
            parts.append(np.asarray([each] * full + [rest] * bool(rest), np.int64))
        return np.concatenate(parts) if parts else np.empty(0, np.int64)

    def reader(self, shard: int) -> ShardReader:
        """Decoded chunks of the ``shard``-th shard of this split."""
        if shard not in self._readers:
            entry = self.shards[shard]
            self._readers[shard] = ShardReader(self.path / entry.file, self.manifest, entry)
        return self._readers[shard]

    def read(self, indices: np.ndarray | list[int] | range) -> tuple[np.ndarray, np.ndarray]:
        """Items by position in the split, as they are on disk; every chunk read is checked.

        Parameters
        ----------
        indices
            Positions ``0 .. count - 1``, shape ``(n,)``, in any order, repeats allowed.

        Returns
        -------
        tuple
            ``x`` of shape ``(n, *x_shape)`` and ``y`` of shape ``(n, *y_shape)``.

        Raises
        ------
        DataError
            If a position is outside the split, or a chunk is corrupt.
        """
        wanted = np.asarray(indices, np.int64)
        if wanted.size and (wanted.min() < 0 or wanted.max() >= self.count):
            raise DataError(
                f"{self.path}: items {wanted.min()}..{wanted.max()} were asked for, "
                f"{self.split} has {self.count}"
            )
        return self._read("x", wanted), self._read("y", wanted)

    def small(self, array: str) -> bool:
        """Whether an array is small enough to be held in memory, as labels are."""
        spec = self.manifest.arrays[array]
        return spec.item_bytes <= SMALL_ITEM and spec.item_bytes * self.count <= SMALL_ARRAY

    def read_all(self, array: str) -> np.ndarray:
        """A whole array, every chunk and every label checked; shape ``(count, *item shape)``.

        Raises
        ------
        DataError
            If a chunk is corrupt or a label out of range.
        """
        values = self._read(array, np.arange(self.count))
        if array == "y" and self.classes is not None:
            check_labels(values, self.classes, f"{self.path}: y of {self.split}")
        return values

    def _read(self, array: str, wanted: np.ndarray) -> np.ndarray:
        spec = self.manifest.arrays[array]
        out = np.empty((len(wanted), *spec.shape), spec.dtype)
        shard = np.searchsorted(self.firsts, wanted, side="right") - 1
        local = wanted - self.firsts[shard]
        group = local // spec.items_per_chunk
        for s, g in sorted({*zip(shard.tolist(), group.tolist(), strict=True)}):
            reader = self.reader(s)
            rows = np.flatnonzero((shard == s) & (group == g))
            within = local[rows] - g * spec.items_per_chunk
            for part in range(spec.chunks_per_item):
                chunk = g * spec.chunks_per_item + part
                values = reader.read_chunk(array, chunk)
                reader.check(array, chunk, values)
                if spec.shape:
                    at = reader.box(array, chunk)[1]
                    out[rows, at] = values[within]
                else:
                    out[rows] = values[within]
        return out

    def close(self) -> None:
        """Close all files."""
        for reader in self._readers.values():
            reader.close()
        self._readers.clear()

    def __enter__(self) -> Dataset:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
