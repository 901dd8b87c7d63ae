"""The loader: batches, read once per sample group, in an order that knows no grid."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from hpcsamp.data.dataset import Dataset
from hpcsamp.data.order import Order, Shuffle, Step, Tail, check_batch
from hpcsamp.data.plan import ChunkTable, part_of, plan
from hpcsamp.data.readers import CollectiveReader, DirectReader, Reader, SerialReader
from hpcsamp.data.shard import check_labels
from hpcsamp.errors import UsageError
from hpcsamp.topology import together

if TYPE_CHECKING:
    from hpcsamp.topology import Topology

ReaderName = Literal["auto", "collective", "direct", "serial", "broadcast"]
Verify = Literal["all", "sampled", "off"]


@dataclass(frozen=True)
class Batch:
    """What a rank works on in one step; ``x, y = batch`` unpacks it.

    Attributes
    ----------
    x
        Inputs, shape ``(B, *x_shape)``, on the rank's device.
    y
        Targets, shape ``(B, *y_shape)``: int64 labels or numbers.
    index
        Positions in the split, int64 array of shape ``(B,)``.
    weight
        1 for items and 0 for padding, shape ``(B,)``.
    count
        Items of the step over all data groups, padding not counted: the divisor of a mean.
    """

    x: torch.Tensor
    y: torch.Tensor
    index: np.ndarray
    weight: torch.Tensor
    count: int

    def __iter__(self) -> Iterator[torch.Tensor]:
        return iter((self.x, self.y))

    def __len__(self) -> int:
        return len(self.index)


class Loader:
    """Batches of a split for every rank of a grid.

    The global batch of a step is the same list of items on any grid. The ranks of a sample group
    get the identical part of it, each having read 1/P of its bytes.

    Parameters
    ----------
    dataset
        An opened split, or the path of a dataset folder.
    topology
        The grid.
    batch
        Items of a step over all D data groups; D must divide it.
    split
        Which split to open, if ``dataset`` is a path.
    seed, shuffle, tail
        See :class:`~hpcsamp.data.order.Order`; ``shuffle=True`` is ``"global"``.
    reader
        ``"auto"``, or one of :mod:`hpcsamp.data.readers`.
    verify
        Which chunks have their checksum compared on first read.
    normalize
        Subtract the mean and divide by the standard deviation of train: of ``x``, and of ``y``
        where the set says so (``manifest.normalize_y``).
    dtype
        Type of ``x`` and of numeric ``y``.

    Raises
    ------
    DataError, UsageError
        The same on every rank.
    """

    def __init__(
        self,
        dataset: Dataset | str | Path,
        topology: Topology,
        *,
        batch: int,
        split: str = "train",
        seed: int = 1,
        shuffle: bool | Shuffle = True,
        tail: Tail = "drop",
        reader: ReaderName = "auto",
        verify: Verify = "all",
        normalize: bool = True,
        dtype: torch.dtype = torch.float32,
    ):
        self.topology, self.batch = topology, batch
        self._comm = topology.sample_comm.Dup()
        kind: Shuffle = shuffle if isinstance(shuffle, str) else "global" if shuffle else "none"
        with together(topology.world):
            check_batch(batch, topology.data_size)
            opened = dataset if isinstance(dataset, Dataset) else Dataset.open(dataset, split)
            chunks = opened.chunk_items if kind == "pool" else None
            self.order = Order(opened.count, batch, seed, kind, tail, chunks)
        self.dataset = opened
        self._tables = [ChunkTable(opened, name) for name in ("x", "y")]
        self._reader = self._choose(reader)
        self._convert = Converter(opened, topology.device, dtype, normalize)
        self._next_epoch = 0

    def _choose(self, name: ReaderName) -> Reader:
        filtered = any(t.spec.compression for t in self._tables)
        if name == "collective":
            return CollectiveReader(self.dataset, self.topology.sample_comm.Dup())
        if name == "serial" or filtered:
            return SerialReader(self.dataset)
        return DirectReader(self.dataset)

    @property
    def steps_per_epoch(self) -> int:
        """Steps of an epoch."""
        return self.order.steps

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Batches of an epoch, from any step on, at no cost for the steps before.

        Parameters
        ----------
        epoch
            Counted from 0.
        start
            First step, ``0 .. steps_per_epoch`` (the last gives no batch).

        Raises
        ------
        UsageError, DataError
            The same on every rank.
        """
        if not 0 <= start <= self.steps_per_epoch:
            raise UsageError(f"step {start} is outside an epoch of {self.steps_per_epoch} steps")
        return self._steps(epoch, start)

    def _steps(self, epoch: int, start: int) -> Iterator[Batch]:
        for number in range(start, self.steps_per_epoch):
            step = self.order.step(epoch, number)
            own = step.part(self.topology.data_rank, self.topology.data_size)
            with together(self.topology.world):
                parts = self._fetch(own)
            yield self._convert(own, step.count, *(self._share(*part) for part in parts))

    def _fetch(self, own: Step) -> list[tuple[np.ndarray, ChunkTable]]:
        size, rank = self._comm.Get_size(), self._comm.Get_rank()
        found = []
        if isinstance(self._reader, CollectiveReader):
            self._reader.announce(own.items)
        for table in self._tables:
            out = np.empty(len(own.items) * table.spec.item_bytes, np.uint8)
            requests = plan(table, own.items, part_of(table, len(own.items), size, rank))
            self._reader.fetch(table, requests, out)
            found.append((out, table))
        return found

    def _share(self, out: np.ndarray, table: ChunkTable) -> np.ndarray:
        size, spec = self._comm.Get_size(), table.spec
        items = len(out) // spec.item_bytes
        if size > 1:
            from mpi4py import MPI

            parts = [part_of(table, items, size, p) for p in range(size)]
            counts = [len(part) * spec.row_bytes for part in parts]
            starts = [part.start * spec.row_bytes for part in parts]
            self._comm.Allgatherv(MPI.IN_PLACE, [out, counts, starts, MPI.BYTE])
        return out.view(spec.dtype).reshape(items, *spec.shape)

    def __iter__(self) -> Iterator[Batch]:
        """Epochs 0, 1, 2, ... on successive iterations."""
        self._next_epoch += 1
        return self.epoch(self._next_epoch - 1)

    def __len__(self) -> int:
        return self.steps_per_epoch

    def close(self) -> None:
        """Close the files; collective over the world."""
        self._reader.close()
        self.dataset.close()

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Converter:
    """Raw items to tensors: device, type, statistics of train.

    Parameters
    ----------
    dataset
        Whose statistics and classes.
    device, dtype
        Of the tensors.
    normalize
        Whether to standardise.
    """

    def __init__(self, dataset: Dataset, device: torch.device, dtype: torch.dtype, normalize: bool):
        self.dataset, self.device, self.dtype = dataset, device, dtype
        manifest = dataset.manifest
        self._x = self._scale("x") if normalize else None
        self._y = self._scale("y") if normalize and manifest.normalize_y else None

    def _scale(self, array: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and 1/std of every channel, shaped to broadcast over items; constants stay 0."""
        stats, spec = self.dataset.manifest.stats[array], self.dataset.manifest.arrays[array]
        std = np.asarray(stats.std)
        shape = (-1, *[1] * (len(spec.shape) - 1)) if spec.shape else ()

        def tensor(values: np.ndarray) -> torch.Tensor:
            return torch.as_tensor(values.reshape(shape), dtype=self.dtype, device=self.device)

        return tensor(np.asarray(stats.mean)), tensor(1 / np.where(std > 0, std, 1.0))

    def __call__(self, own: Step, count: int, x: np.ndarray, y: np.ndarray) -> Batch:
        """The batch of a rank from raw items."""
        if self.dataset.classes is not None:
            check_labels(y, self.dataset.classes, f"{self.dataset.path} {self.dataset.split}")
            target = torch.from_numpy(y).to(self.device, torch.int64)
        else:
            target = self._number(y, self._y)
        return Batch(
            x=self._number(x, self._x),
            y=target,
            index=own.items,
            weight=torch.as_tensor(own.weight, dtype=self.dtype, device=self.device),
            count=count,
        )

    def _number(
        self, raw: np.ndarray, scale: tuple[torch.Tensor, torch.Tensor] | None
    ) -> torch.Tensor:
        values = torch.from_numpy(raw).to(self.device).to(self.dtype)
        if scale is not None:
            values = (values - scale[0]).mul_(scale[1])
        return values
