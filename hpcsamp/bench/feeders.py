"""Ways to deliver a batch to all ranks of a group: the usual ones and hpcsamp's.

Each feeder reads the same steps of the same order; afterwards every rank has all items of the batch
in memory, in the order of the batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from itertools import pairwise
from typing import TYPE_CHECKING

import h5py
import numpy as np

from hpcsamp.data.dataset import Dataset
from hpcsamp.data.loader import Loader
from hpcsamp.data.order import Order
from hpcsamp.data.read_plan import ChunkTable
from hpcsamp.data.readers import DirectReader
from hpcsamp.names import ReaderName

if TYPE_CHECKING:
    from hpcsamp.grid import Topology


class Feeder(ABC):
    """Interface of the ways to deliver batches."""

    name: str

    @abstractmethod
    def run(self, epoch: int, start: int, stop: int) -> None:
        """Bring batches ``start .. stop - 1`` of an epoch to all ranks, one after the other."""

    @abstractmethod
    def close(self) -> None:
        """Close all files."""


class ItemFeeder(Feeder):
    """Base class of feeders that read a batch by the positions of its items.

    Parameters
    ----------
    dataset
        The split.
    order
        Its order.
    """

    def __init__(self, dataset: Dataset, order: Order):
        self.dataset, self.order = dataset, order
        # all feeders keep labels in memory, as hpcsamp does
        self.tables = [ChunkTable(dataset, a) for a in ("x", "y") if not dataset.small(a)]
        self.out = [np.zeros(order.batch * t.spec.item_bytes, np.uint8) for t in self.tables]

    def run(self, epoch: int, start: int, stop: int) -> None:
        """See :class:`Feeder`."""
        for step in range(start, stop):
            self.bring(self.order.step(epoch, step).items)

    @abstractmethod
    def bring(self, items: np.ndarray) -> None:
        """Bring one batch to all ranks."""

    def close(self) -> None:
        """See :class:`Feeder`."""
        self.dataset.close()


class DuplicatedRuns(ItemFeeder):
    """Every rank reads the whole batch with h5py, with one read per run of neighbouring rows."""

    name = "duplicated, h5py per run"

    def __init__(self, dataset: Dataset, order: Order):
        super().__init__(dataset, order)
        self._files: dict[int, h5py.File] = {}
        self._rows = [
            np.zeros((order.batch, *t.spec.shape), np.dtype(t.spec.dtype)) for t in self.tables
        ]

    def bring(self, items: np.ndarray) -> None:
        """See :class:`ItemFeeder`."""
        order = np.argsort(items)
        ascending = items[order]
        shard = np.searchsorted(self.dataset.firsts, ascending, side="right") - 1
        local = ascending - self.dataset.firsts[shard]
        cuts = np.flatnonzero((np.diff(local) != 1) | (np.diff(shard) != 0)) + 1
        edges = [0, *cuts.tolist(), len(items)]
        for table, rows, out in zip(self.tables, self._rows, self.out, strict=True):
            for begin, end in pairwise(edges):
                first = int(local[begin])
                source = self._file(int(shard[begin]))[table.array]
                source.read_direct(rows, np.s_[first : first + end - begin], np.s_[begin:end])
            placed = out.view(table.spec.dtype).reshape(rows.shape)
            placed[order] = rows

    def _file(self, shard: int) -> h5py.File:
        if shard not in self._files:
            path = self.dataset.path / self.dataset.shards[shard].file
            self._files[shard] = h5py.File(path, "r", locking=False, rdcc_nbytes=0)
        return self._files[shard]

    def close(self) -> None:
        """See :class:`Feeder`."""
        for file in self._files.values():
            file.close()
        super().close()


class DuplicatedPositional(ItemFeeder):
    """Every rank reads the whole batch with positional reads at the chunk offsets."""

    name = "duplicated, positional"

    def __init__(self, dataset: Dataset, order: Order):
        super().__init__(dataset, order)
        self._reader = DirectReader(dataset)

    def bring(self, items: np.ndarray) -> None:
        """See :class:`ItemFeeder`."""
        for table, out in zip(self.tables, self.out, strict=True):
            self._reader.fetch(table, items, range(len(items) * table.spec.rows), out)

    def close(self) -> None:
        """See :class:`Feeder`."""
        self._reader.close()
        super().close()


class RootBroadcast(DuplicatedPositional):
    """Rank 0 reads the whole batch with positional reads and broadcasts it."""

    name = "rank 0 reads, broadcast"

    def __init__(self, dataset: Dataset, order: Order, topology: Topology):
        super().__init__(dataset, order)
        self._comm = topology.sample_comm.Dup()

    def bring(self, items: np.ndarray) -> None:
        """See :class:`ItemFeeder`."""
        if self._comm.Get_rank() == 0:
            super().bring(items)
        for out in self.out:
            self._comm.Bcast(out)

    def close(self) -> None:
        """See :class:`Feeder`."""
        super().close()
        self._comm.Free()


class SharedRing(Feeder):
    """hpcsamp's feed: the prefetch thread of every rank reads its part into the shared ring."""

    def __init__(self, dataset: Dataset, order: Order, topology: Topology, reader: ReaderName):
        self.name = f"hpcsamp, {reader}"
        self.loader = Loader(
            dataset,
            topology,
            batch=order.batch,
            seed=order.seed,
            shuffle=order.shuffle,
            reader=reader,
            verify="off",
        )

    def run(self, epoch: int, start: int, stop: int) -> None:
        """See :class:`Feeder`."""
        for _ in self.loader.raw(epoch, start, stop):
            pass

    def close(self) -> None:
        """See :class:`Feeder`."""
        self.loader.close()
