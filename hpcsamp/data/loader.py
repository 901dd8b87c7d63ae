"""The loader: batches, read once per sample group, in an order that knows no grid."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Iterator
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from hpcsamp.data.batch import Batch, Converter
from hpcsamp.data.dataset import Dataset
from hpcsamp.data.feed import Feed
from hpcsamp.data.held import Held
from hpcsamp.data.order import Order, Step, Tail, check_batch
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
    prefetch thread; arrays with items of a few bytes, and all with ``reader="memory"``, are held in
    memory that the ranks of a node share. Making, beginning an epoch and closing are collective; a
    fault on one rank is raised on all of them, at the same batch.

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

    Attributes
    ----------
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
    ):
        self.topology, self.batch = topology, batch
        kind: Shuffle = shuffle if isinstance(shuffle, str) else "global" if shuffle else "none"
        with together(topology.world):
            check_batch(batch, topology.data_size)
            opened = dataset if isinstance(dataset, Dataset) else Dataset.open(dataset, split)
            chunks = opened.chunk_items if kind == "pool" else None
            self.order = Order(opened.count, batch, seed, kind, tail, chunks)
            reading = choose_reader(opened, reader)
            self._convert = Converter(opened, topology.device, dtype, normalize)
        self.dataset = opened
        names = list(opened.manifest.arrays)
        arrays = [n for n in names if reading == "memory" or opened.small(n)]
        self._held = Held(opened, arrays, topology)
        self._feed: Feed | None = None
        if len(arrays) < len(names):
            fed = [n for n in names if n not in arrays]
            self._feed = Feed(opened, fed, topology, self.order, reading, verify, slots)
        self._next_epoch = 0
        self._closed = False
        topology.world.Barrier()
        if topology.is_root:
            log.info("%s", self.describe())

    # The user's part ----------------------------------------------------------------------------

    @property
    def steps_per_epoch(self) -> int:
        """Steps of an epoch."""
        return self.order.steps

    @property
    def waited(self) -> float:
        """Seconds that this rank has waited for batches so far."""
        return 0.0 if self._feed is None else self._feed.waited

    def describe(self) -> str:
        """One line: items, and how they come."""
        how = f"held in memory, {self._held.bytes / 1e6:.2f} MB a node"
        if self._feed is not None:
            how = self._feed.describe()
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
        none: Iterable[dict[str, np.ndarray]] = repeat({}, stop - start)
        fed = none if self._feed is None else self._feed.run(epoch, start, stop)
        for number, arrays in enumerate(fed, start):
            whole = self.order.step(epoch, number)
            own = whole.part(self.topology.data_rank, self.topology.data_size)
            arrays = {**arrays, **self._held.rows(own.items)}
            yield own, whole.count, arrays

    def _batches(self, epoch: int, start: int) -> Iterator[Batch]:
        for own, count, arrays in self.raw(epoch, start):
            try:
                batch = self._convert(own, count, arrays)
            except HpcsampError as e:
                # all ranks of a group look at the same bytes, and so fail alike
                e.agreed = self.topology.data_size == 1 and whole_job(self.topology.world)
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
        if self._feed is not None:
            self._feed.close(alone and self.topology.size > 1)
        if alone and self.topology.size > 1:
            return
        self._held.free()
        self.dataset.close()

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
