"""The loader: batches, read once per sample group, in an order that knows no grid."""

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
from hpcsamp.data.held import Held
from hpcsamp.data.order import Order, Step, Tail, check_batch
from hpcsamp.data.parts import Given, Sharing, parts_of, sharing
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

    The global batch of a step is the same list of items on any grid. The ranks of a sample group
    get the identical part of it: each fetches 1/P of its bytes into a ring in shared memory, from a
    prefetch thread. Model ranks may be given a part of every item each: those that need the same
    share a ring, and no other bytes are read. Arrays with items of a few bytes, and all with
    ``reader="memory"``, are held in memory that the ranks of a node share. Making, beginning an
    epoch and closing are collective; a fault on one rank is raised on all of them, at the same
    batch.

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
        Subtract the mean and divide by the standard deviation of train: of inputs that are numbers,
        and of targets where the set says so (``manifest.normalize_y``).
    dtype
        Type of numbers; labels and ids are int64, flags bool.
    slots
        Batches in the ring, where shared memory has room for them.
    part
        What this rank gets of every item, the same on all ranks with this one's place on the model
        axis: a box of ``x``, or boxes by the names of inputs and targets, each a part that knows
        its ``shape`` and ``box``, or a ``(start, stop)``, a slice or ``None`` for each axis of an
        item. What is not named is whole. Boxes may overlap, or be empty.

    Attributes
    ----------
    parts
        The boxes of all arrays.
    order
        Which items a step has.
    waited
        Seconds that this rank has waited for batches so far.

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
        slots: int = 3,
        part: Given | None = None,
    ):
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
        self._held = Held(opened, held, topology, self.parts)
        self._feeds: list[Feed] = []
        for of in shared:
            fed = Sharing([n for n in of.names if n not in held], of.classes)
            if fed.names:
                # threads in collective calls of one HDF5 library, which has one lock, wait for ever
                way = choose_reader(opened, "auto") if self._feeds else reading
                self._feeds.append(
                    Feed(opened, self.parts, fed, topology, self.order, way, verify, slots)
                )
        self._alike = topology.data_size == 1 and all(set(of.classes) == {0} for of in shared)
        self._next_epoch = 0
        self._closed = False
        topology.world.Barrier()
        if topology.is_root:
            log.info("%s", self.describe())
            for line in reads_more if self._feeds else ():
                log.warning("%s", line)

    # The user's part ----------------------------------------------------------------------------

    @property
    def steps_per_epoch(self) -> int:
        """Steps of an epoch."""
        return self.order.steps

    @property
    def waited(self) -> float:
        """Seconds that this rank has waited for batches so far."""
        return sum(feed.waited for feed in self._feeds)

    def describe(self) -> str:
        """One line: items, and how they come."""
        how = f"held in memory, {self._held.bytes / 1e6:.2f} MB a node"
        if self._feeds:
            how = "; ".join(feed.describe() for feed in self._feeds)
        cut = self.parts.cut(self.dataset)
        if cut:
            how += f", parts of {', '.join(cut)}"
        return f"{self.dataset.path} {self.dataset.split}: {self.dataset.count:,} items, {how}"

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Batches of an epoch, from any step on, at no cost for the steps before.

        All ranks ask for the same. Beginning another epoch gives this one up.

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
        if epoch < 0 or not 0 <= start <= self.steps_per_epoch:
            raise UsageError(
                f"epoch {epoch} step {start} is outside epochs of {self.steps_per_epoch} steps"
            )
        return self._batches(epoch, start)

    def raw(
        self, epoch: int, start: int = 0, stop: int | None = None
    ) -> Iterator[tuple[Step, int, dict[str, np.ndarray]]]:
        """What the ring holds, without copies: for those who convert items themselves.

        Parameters
        ----------
        epoch, start, stop
            Steps ``start .. stop - 1`` (default: to the end of the epoch).

        Yields
        ------
        tuple
            This data group's part of the step; the step's true items over all groups; the arrays
            by name as they are on disk, shared with the other ranks and valid until the next one
            is asked for: read, do not write.
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
            next(feed, None)  # the last one is no longer needed

    def _batches(self, epoch: int, start: int) -> Iterator[Batch]:
        for own, count, arrays in self.raw(epoch, start):
            try:
                batch = self._convert(own, count, arrays)
            except HpcsampError as e:
                # ranks with the same items, all of them, look at the same bytes and so fail alike
                e.agreed = self._alike and whole_job(self.topology.world)
                raise
            yield batch

    def __iter__(self) -> Iterator[Batch]:
        """Epochs 0, 1, 2, ... on successive iterations."""
        self._next_epoch += 1
        return self.epoch(self._next_epoch - 1)

    def __len__(self) -> int:
        return self.steps_per_epoch

    def close(self) -> None:
        """Stop the thread, close the files, free the shared memory. Collective, and safe to repeat.

        While an exception that the other ranks have not been told of is on its way, they will not
        come here: then only what concerns this rank alone is done.
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
