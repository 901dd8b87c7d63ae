"""Open one split of a dataset folder and read items, with checks against the manifest."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from hpcsamp.data import slabs
from hpcsamp.data.manifest import ArraySpec, Manifest, Stats, read_manifest
from hpcsamp.data.roles import Inputs, Kind, Target, leading
from hpcsamp.data.shard import ShardReader, check_header, check_target
from hpcsamp.data.slabs import Box
from hpcsamp.errors import DataError

SMALL_ITEM, SMALL_ARRAY = 64, 64 * 2**20
"""Largest item and largest whole array, in bytes, of an array that is held in memory."""


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
        The description of the dataset.
    shards
        The shards of this split, in item order.
    order
        By array and axis of an item: the position on disk of each entry along that axis, if batches
        have a different order. A :class:`~hpcsamp.data.Loader` follows it, :meth:`read` does not.
    notes
        Messages for the user about the split.
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
        """Open a split: read the manifest and compare it with the headers of the shards.

        Raises
        ------
        DataError
            If the folder is not a dataset, or a shard is missing, truncated, from another dataset,
            or disagrees with the manifest. The message names the file and both numbers.
        """
        dataset = cls(path, split, read_manifest(path))
        for entry in dataset.shards:
            check_header(dataset.path, dataset.manifest, entry)
        return dataset

    def __len__(self) -> int:
        return self.count

    def __repr__(self) -> str:
        arrays = ", ".join(f"{name} {spec.shape}" for name, spec in self.manifest.arrays.items())
        return f"<{self.path} {self.split}: {self.count} items, {arrays}>"

    @property
    def count(self) -> int:
        """Number of items in the split (N)."""
        return self.manifest.splits[self.split]

    @property
    def in_shape(self) -> tuple[int, ...] | dict[str, tuple[int, ...]]:
        """Shape of the input of one item; a dictionary by name if there are several inputs."""
        shapes = {name: tuple(self.manifest.arrays[name].shape) for name in self.kinds}
        return shapes if self.has_several_inputs else shapes["x"]

    @property
    def kinds(self) -> dict[str, Kind]:
        """Kind of each input by name, in the order of the network's arguments."""
        return self.manifest.kinds

    @property
    def targets(self) -> dict[str, Target]:
        """Description of each target by name."""
        return self.manifest.targets_by_name

    @property
    def has_several_inputs(self) -> bool:
        """Whether inputs have names and batches hold a dictionary of them."""
        return isinstance(self.manifest.inputs, dict)

    @property
    def has_several_targets(self) -> bool:
        """Whether targets have names and batches hold a dictionary of them."""
        return bool(self.manifest.targets)

    @property
    def x_shape(self) -> tuple[int, ...]:
        """Shape of the only input of an item.

        Raises
        ------
        DataError
            If there are several inputs.
        """
        return tuple(self._only("x").shape)

    def _only(self, array: str) -> ArraySpec:
        if array not in self.manifest.arrays:
            what = "inputs" if array == "x" else "targets"
            names = self.kinds if array == "x" else self.targets
            raise DataError(
                f"{self.path} has the {what} {', '.join(names)}; exactly one is needed here"
            )
        return self.manifest.arrays[array]

    @property
    def y_shape(self) -> tuple[int, ...]:
        """Shape of the only target of an item; ``()`` for a label."""
        return tuple(self._only("y").shape)

    @property
    def x_dtype(self) -> np.dtype:
        """Data type of the only input on disk."""
        return np.dtype(self._only("x").dtype)

    @property
    def y_dtype(self) -> np.dtype:
        """Data type of the only target on disk."""
        return np.dtype(self._only("y").dtype)

    @property
    def classes(self) -> int | None:
        """Number of classes, or ``None`` for numeric targets."""
        return self.manifest.classes

    @property
    def task(self) -> str:
        """The kind of task for which the dataset was made."""
        return self.manifest.task

    @property
    def inputs(self) -> Inputs | dict[str, Kind]:
        """Kind of the input, ``"numbers"`` or ``"ids"``; the kinds by name of several inputs."""
        return self.manifest.inputs

    @property
    def uid(self) -> str:
        """Unique identifier of the dataset."""
        return self.manifest.uid

    @property
    def stats(self) -> Stats:
        """Statistics of ``x`` over train, per channel or feature, in the units of the data.

        Raises
        ------
        DataError
            If inputs are ids, or there are several inputs.
        """
        if self.has_several_inputs:
            self._only("x")
        if self.inputs == "ids":
            raise DataError(
                f"{self.path}: its inputs are ids, which have no mean and standard deviation"
            )
        return self.manifest.stats["x"]

    @property
    def y_stats(self) -> Stats | None:
        """Statistics of ``y`` over train; ``None`` for labels."""
        return self.manifest.stats.get("y")

    def scale(self, target: str = "y") -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of a target over train, in the units of a batch.

        Float64, in the shape of a target; 0 and 1 if batches are standardised or targets are
        labels. The standard deviation of a constant is 1.
        """
        stats, shape = self.manifest.stats.get(target), tuple(self._only(target).shape)
        if stats is None or self.targets[target].normalize:
            return np.zeros(shape), np.ones(shape)
        rows = (-1, *[1] * (len(shape) - 1)) if shape else ()
        mean, std = (np.asarray(v, np.float64).reshape(rows) for v in (stats.mean, stats.std))
        std = np.where(std > 0, std, 1.0)
        return np.broadcast_to(mean, shape), np.broadcast_to(std, shape)

    @cached_property
    def firsts(self) -> np.ndarray:
        """First item of every shard, followed by ``count``; int64."""
        return np.asarray([s.first for s in self.shards] + [self.count], np.int64)

    @cached_property
    def chunk_items(self) -> np.ndarray:
        """Number of items in every chunk of ``x``, in item order, for the pool shuffle.

        If there are several inputs, the chunks are those of the input with the largest items.
        """
        each = self.manifest.arrays[leading(self.manifest)].items_per_chunk
        parts = []
        for shard in self.shards:
            full, rest = divmod(shard.count, each)
            parts.append(np.asarray([each] * full + [rest] * bool(rest), np.int64))
        return np.concatenate(parts) if parts else np.empty(0, np.int64)

    def reader(self, shard: int) -> ShardReader:
        """Reader of the decoded chunks of shard number ``shard`` of this split."""
        if shard not in self._readers:
            entry = self.shards[shard]
            self._readers[shard] = ShardReader(self.path / entry.file, self.manifest, entry)
        return self._readers[shard]

    def read(self, indices: np.ndarray | list[int] | range) -> tuple[Any, Any]:
        """Read items by position in the split, as stored on disk, and check every chunk read.

        Parameters
        ----------
        indices
            Positions ``0 .. count - 1``, shape ``(n,)``, in any order and possibly repeated.

        Returns
        -------
        tuple
            ``x`` of shape ``(n, *x_shape)`` and ``y`` of shape ``(n, *y_shape)``; a dictionary of
            such arrays if there are several inputs or targets.

        Raises
        ------
        DataError
            If a position is outside the split, or a chunk is corrupt.
        """
        wanted = np.asarray(indices, np.int64)
        if wanted.size and (wanted.min() < 0 or wanted.max() >= self.count):
            raise DataError(
                f"{self.path}: items {wanted.min()}..{wanted.max()} were requested, but "
                f"{self.split} has {self.count} items"
            )
        x, y = ({name: self._read(name, wanted) for name in n} for n in (self.kinds, self.targets))
        return (
            x if self.has_several_inputs else x["x"],
            y if self.has_several_targets else y["y"],
        )

    def small(self, array: str) -> bool:
        """Whether an array is small enough to be held in memory, as labels are."""
        spec = self.manifest.arrays[array]
        return spec.item_bytes <= SMALL_ITEM and spec.item_bytes * self.count <= SMALL_ARRAY

    def read_array(
        self, array: str, indices: np.ndarray | range, box: Box | None = None
    ) -> np.ndarray:
        """Read some items of one array, or a box of each; shape ``(n, *item shape)``.

        Parameters
        ----------
        indices
            Positions in the split, as for :meth:`read`.
        box
            ``(start, stop)`` for each axis of an item; only chunks that overlap it are read.
        """
        return self._read(array, np.asarray(indices, np.int64), box)

    def read_all(self, array: str) -> np.ndarray:
        """Read a whole array and check all chunks and labels; shape ``(count, *item shape)``.

        Raises
        ------
        DataError
            If a chunk is corrupt or a label out of range.
        """
        values = self._read(array, np.arange(self.count))
        if array in self.targets:
            check_target(values, self.targets[array], f"{self.path}: {array} of {self.split}")
        return values

    def _read(self, array: str, wanted: np.ndarray, box: Box | None = None) -> np.ndarray:
        spec = self.manifest.arrays[array]
        own = slabs.whole(spec.shape) if box is None else box
        parts = slabs.overlapping(spec.shape, spec.part_shape, own)
        out = np.empty((len(wanted), *slabs.shape_of(own)), spec.dtype)
        shard = np.searchsorted(self.firsts, wanted, side="right") - 1
        local = wanted - self.firsts[shard]
        group = local // spec.items_per_chunk
        for s, g in sorted({*zip(shard.tolist(), group.tolist(), strict=True)}):
            reader = self.reader(s)
            rows = np.flatnonzero((shard == s) & (group == g))
            within = local[rows] - g * spec.items_per_chunk
            for part in parts:
                chunk = g * spec.chunks_per_item + part
                held = slabs.slab_box(spec.shape, spec.part_shape, part)
                common = slabs.meet(held, own)
                if common is None:
                    continue
                values = reader.read_chunk(array, chunk)
                reader.check(array, chunk, values)
                at: tuple[Any, ...] = (rows, *slabs.slices(common, own))
                out[at] = values[(within, *slabs.slices(common, held))]
        return out

    def close(self) -> None:
        """Close all open shards."""
        for reader in self._readers.values():
            reader.close()
        self._readers.clear()

    def __enter__(self) -> Dataset:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
