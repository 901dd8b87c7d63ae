"""Data loader: batches read once per sample group, in an order that does not depend on the grid."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from hpcsamp.data.batch import Batch, Converter
from hpcsamp.data.dataset import Dataset
from hpcsamp.data.feed import Feed
from hpcsamp.data.following import Follows
from hpcsamp.data.held import SplitInMemory
from hpcsamp.data.order import GlobalBatch, Order, Tail, check_batch
from hpcsamp.data.parts import Given, SharedArrays, parts_of, sharing
from hpcsamp.data.readers import choose_reader
from hpcsamp.errors import HpcsampError, UsageError
from hpcsamp.grid import together
from hpcsamp.names import ReaderName, Shuffle, Verify
from hpcsamp.serial import whole_job

if TYPE_CHECKING:
    from hpcsamp.grid import Topology

log = logging.getLogger(__name__)


class Loader:
    """Batches of a split for every rank of a grid.

    The global batch of a step is the same list of items on any grid. All P ranks of a sample group
    get the same part of it: a prefetch thread of each rank reads 1/P of the bytes into a ring
    buffer in shared memory. Each model rank may need only a part of every item: ranks that need the
    same part share a ring, and no other bytes are read. Arrays with items of a few bytes, and all
    arrays with ``reader="memory"``, are held in memory that the ranks of a node share. Creating a
    loader, starting an epoch and closing are collective; an error on one rank is raised on all of
    them, at the same batch.

    Parameters
    ----------
    dataset
        An opened split, or the path of a dataset folder.
    topology
        The grid.
    batch
        Number of items of a step over all D data groups; must be a multiple of D.
    split
        Split to open, if ``dataset`` is a path.
    seed, shuffle, tail
        See :class:`~hpcsamp.data.order.Order`; ``shuffle=True`` is ``"global"``.
    reader
        ``"auto"``, or one of :mod:`hpcsamp.data.readers`.
    verify
        Chunks whose checksum is verified when they are first read: ``"all"``, ``"sampled"``
        or ``"off"``.
    normalize
        Whether to subtract the mean over train and divide by the standard deviation: for inputs
        that are numbers, and for targets if the dataset requests it (``manifest.normalize_y``).
    dtype
        Data type of numeric arrays; labels and ids are int64, flags bool.
    slots
        Number of batches in the ring, if shared memory has room for them.
    part
        The part of every item that this rank reads, which must be the same on all ranks with the
        same position on the model axis: a box of ``x``, or boxes by the names of inputs and
        targets. A box is an object with ``shape`` and ``box``, or a sequence with ``(start,
        stop)``, a slice or ``None`` for each axis of an item. Arrays without a box are read whole.
        Boxes may overlap or be empty.
    follows
        By array: the positions ``(N, m)`` of the ``m`` items that are read for each item of the
        split, instead of the item itself. Batches hold ``(B * m, ...)`` of such an array.

    Attributes
    ----------
    parts
        The boxes of all arrays.
    order
        The order of the items, which defines the items of each step.
    waited
        Seconds that this rank has waited for batches so far.

    Raises
    ------
    DataError, UsageError
        On every rank, with the same message.
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
        slots: int = 3,
        part: Given | None = None,
        follows: Follows | None = None,
    ):
        follows = follows or {}
        self.topology, self.batch = topology, batch
        kind: Shuffle = shuffle if isinstance(shuffle, str) else "global" if shuffle else "none"
        with together(topology.world):
            check_batch(batch, topology.data_size)
            opened = dataset if isinstance(dataset, Dataset) else Dataset.open(dataset, split)
            chunks = opened.chunk_items if kind == "pool" else None
            self.order = Order(opened.count, batch, seed, kind, tail, chunks)
            reading = choose_reader(opened, reader)
            self.parts = parts_of(part, opened)
            self._convert = Converter(opened, topology.device, dtype, normalize, self.parts)
        self.dataset = opened
        with together(topology.world):
            shared, reads_more = sharing(self.parts, opened, topology)
        held = [n for n in opened.manifest.arrays if reading == "memory" or opened.small(n)]
        self._held = SplitInMemory(opened, held, topology, self.parts, follows)
        self._feeds: list[Feed] = []
        for of in shared:
            fed = SharedArrays([n for n in of.names if n not in held], of.classes)
            if fed.names:
                # two threads in collective calls of HDF5, which has one lock, would deadlock
                way = choose_reader(opened, "auto") if self._feeds else reading
                self._feeds.append(
                    Feed(opened, self.parts, fed, topology, self.order, way, verify, slots, follows)
                )
        self._alike = topology.data_size == 1 and all(set(of.classes) == {0} for of in shared)
        self._next_epoch = 0
        self._closed = False
        topology.world.Barrier()
        if topology.is_root:
            log.info("%s", self.describe())
            for line in reads_more if self._feeds else ():
                log.warning("%s", line)

    # Public --------------------------------------------------------------------------------------

    @property
    def steps_per_epoch(self) -> int:
        """Number of steps in an epoch."""
        return self.order.steps

    @property
    def waited(self) -> float:
        """Seconds that this rank has waited for batches so far."""
        return sum(feed.waited for feed in self._feeds)

    def describe(self) -> str:
        """Describe the split and its reader in one line for the log."""
        how = f"held in memory, {self._held.bytes / 1e6:.2f} MB per node"
        if self._feeds:
            how = "; ".join(feed.describe() for feed in self._feeds)
        cut = self.parts.cut(self.dataset)
        if cut:
            how += f", parts of {', '.join(cut)}"
        return f"{self.dataset.path} {self.dataset.split}: {self.dataset.count:,} items, {how}"

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Batches of an epoch from step ``start`` on; earlier steps are skipped without being read.

        Collective, with the same arguments on all ranks. Starting another epoch ends this one.

        Parameters
        ----------
        epoch
            Epoch, counted from 0.
        start
            First step, ``0 .. steps_per_epoch`` (the latter yields no batch).

        Raises
        ------
        UsageError, DataError
            On every rank, with the same message.
        """
        if epoch < 0 or not 0 <= start <= self.steps_per_epoch:
            raise UsageError(
                f"step {start} of epoch {epoch} does not exist: an epoch has "
                f"{self.steps_per_epoch} steps"
            )
        return self._batches(epoch, start)

    def raw(
        self, epoch: int, start: int = 0, stop: int | None = None
    ) -> Iterator[tuple[GlobalBatch, int, dict[str, np.ndarray]]]:
        """Raw batches in shared memory, without copies, for code that converts items itself.

        Parameters
        ----------
        epoch, start, stop
            Steps ``start .. stop - 1`` of an epoch (default: to its end).

        Yields
        ------
        tuple
            This data group's part of the step; the number of items of the step over all groups
            without padding; the arrays by name as they are on disk. The arrays are shared with the
            other ranks: they must not be written to, and are valid until the next step is
            requested.
        """
        if self._closed:
            raise UsageError("this loader is closed")
        stop = self.steps_per_epoch if stop is None else stop
        fed = [feed.run(epoch, start, stop) for feed in self._feeds]
        for number in range(start, stop):
            arrays: dict[str, np.ndarray] = {}
            for feed in fed:
                arrays |= next(feed)
            whole = self.order.step(epoch, number)
            own = whole.part(self.topology.data_rank, self.topology.data_size)
            yield own, whole.count, arrays | self._held.rows(own.items)
        for feed in fed:
            next(feed, None)  # releases the last batch

    def _batches(self, epoch: int, start: int) -> Iterator[Batch]:
        for own, count, arrays in self.raw(epoch, start):
            try:
                batch = self._convert(own, count, arrays)
            except HpcsampError as e:
                # if all ranks have the same items, they convert the same bytes and all fail
                e.agreed = self._alike and whole_job(self.topology.world)
                raise
            yield batch

    def __iter__(self) -> Iterator[Batch]:
        """Batches of epoch 0 in the first iteration, of epoch 1 in the second, and so on."""
        self._next_epoch += 1
        return self.epoch(self._next_epoch - 1)

    def __len__(self) -> int:
        return self.steps_per_epoch

    def close(self) -> None:
        """Stop the threads, close the files and free the shared memory. Collective and idempotent.

        If this rank is handling an exception that the other ranks do not know of, they do not call
        this method, so nothing collective is done.
        """
        if self._closed:
            return
        self._closed = True
        error = sys.exception()
        alone = error is not None and not getattr(error, "agreed", False)
        for feed in self._feeds:
            feed.close(alone and self.topology.size > 1)
        if alone and self.topology.size > 1:
            return
        self._held.free()
        self.dataset.close()

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
