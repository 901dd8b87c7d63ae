"""The loader: batches, read once per sample group, in an order that knows no grid."""

from __future__ import annotations

import atexit
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from hpcsamp.data.batch import Batch, Converter
from hpcsamp.data.dataset import Dataset
from hpcsamp.data.group import Group
from hpcsamp.data.integrity import Checker
from hpcsamp.data.order import Order, Shuffle, Step, Tail, check_batch
from hpcsamp.data.plan import ChunkTable, part_of
from hpcsamp.data.prefetch import Prefetcher
from hpcsamp.data.readers import Reader, ReaderName, choose_reader, make_reader
from hpcsamp.data.ring import Ring, fit
from hpcsamp.errors import HpcsampError, UsageError
from hpcsamp.topology import together

if TYPE_CHECKING:
    from hpcsamp.topology import Topology

Verify = Literal["all", "sampled", "off"]

log = logging.getLogger(__name__)


class Loader:
    """Batches of a split for every rank of a grid.

    The global batch of a step is the same list of items on any grid. The ranks of a sample group
    get the identical part of it: each fetches 1/P of its bytes into a ring in shared memory, from a
    prefetch thread. Making, beginning an epoch and closing are collective; a fault on one rank is
    raised on all of them, at the same batch.

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
        self._held = self._hold()
        self._tables = [ChunkTable(opened, n) for n in ("x", "y") if n not in self._held]
        self._items = batch // topology.data_size
        self._group = Group(topology)
        self._reader: Reader = make_reader(reading, opened, self._group)
        self._ring = self._make_ring(slots)
        self._checkers = self._make_checkers(verify)
        self._feed = Prefetcher(
            self._ring,
            self._fill,
            leaders=self._group.leaders,
            many=self._group.many,
            exchange=self._exchange if self._group.spans else None,
            agree=self._reader.agree if self._reader.collective else None,
            whole=self._group.whole,
        )
        self._next_epoch = 0
        self._closed = False
        # a thread must not outlive MPI; a loader nobody closed is stopped, though not freed
        atexit.register(self._feed.stop, 10.0)
        topology.world.Barrier()
        if topology.is_root:
            log.info("%s", self.describe())

    # Making -------------------------------------------------------------------------------------

    def _hold(self) -> dict[str, np.ndarray]:
        """Arrays with items of a few bytes, labels above all: read once by rank 0, held by all."""
        world, held = self.topology.world, {}
        for name, spec in self.dataset.manifest.arrays.items():
            if self.dataset.small(name):
                values = np.empty((self.dataset.count, *spec.shape), spec.dtype)
                with together(world):
                    if world.Get_rank() == 0:
                        values = self.dataset.read_all(name)
                world.Bcast(values.reshape(-1).view(np.uint8))
                held[name] = values
        return held

    def _make_ring(self, slots: int) -> Ring:
        group = self._group
        sizes = [-(-self._items * t.spec.item_bytes // 64) * 64 for t in self._tables]
        self._begins = np.cumsum([0, *sizes[:-1]]).tolist() if sizes else []
        shared = group.ring_comm.Get_size() > 1
        leads = shared and group.ring_comm.Get_rank() == 0
        room = fit(self.topology.node_comm, self.topology.world, sum(sizes), slots, leads)
        if room.slots < slots and self.topology.is_root:
            log.warning(
                "shared memory has %.0f MB free: the ring gets %d batches instead of %d",
                room.free / 1e6,
                room.slots,
                slots,
            )
        ring = Ring(group.ring_comm, sum(sizes), room.slots, sum(t.count for t in self._tables))
        if self.topology.device.type == "cuda":
            _pin(ring.memory)
        return ring

    def _make_checkers(self, verify: Verify) -> list[Checker]:
        if verify == "off":
            return []
        group, begin, checkers = self._group, 0, []
        for table in self._tables:
            marks = self._ring.marks[begin : begin + table.count]
            begin += table.count
            place = (group.position, group.size)
            checkers.append(Checker(self.dataset, table, marks, *place, verify == "sampled"))
        return checkers

    # The thread's part --------------------------------------------------------------------------

    def _fill(self, epoch: int, step: int, slot: np.ndarray) -> None:
        """Fetch this rank's part of a batch into a slot, and verify what is new in it."""
        group = self._group
        items = self._part(epoch, step).items
        views = self._views(slot)
        parts = [part_of(t, len(items), group.size, group.position) for t in self._tables]
        for table, part, out in zip(self._tables, parts, views, strict=True):
            self._reader.fetch(table, items, part, out)
        for checker, part, out in zip(self._checkers, parts, views, strict=False):
            checker.check(items, part, out)

    def _part(self, epoch: int, step: int) -> Step:
        whole = self.order.step(epoch, step)
        return whole.part(self.topology.data_rank, self.topology.data_size)

    def _views(self, slot: np.ndarray) -> list[np.ndarray]:
        """The arrays of a slot, as bytes."""
        return [
            slot[begin : begin + self._items * table.spec.item_bytes]
            for begin, table in zip(self._begins, self._tables, strict=True)
        ]

    def _exchange(self, slot: np.ndarray) -> None:
        """Bring the rows that other nodes of the group have read."""
        for table, out in zip(self._tables, self._views(slot), strict=True):
            self._group.exchange(out, self._items * table.spec.rows, table.spec.row_bytes)

    # The user's part ----------------------------------------------------------------------------

    @property
    def steps_per_epoch(self) -> int:
        """Steps of an epoch."""
        return self.order.steps

    @property
    def waited(self) -> float:
        """Seconds that this rank has waited for batches so far."""
        return self._feed.waited

    def describe(self) -> str:
        """One line: items, how they are read, and the ring."""
        group, ring = self._group, self._ring
        return (
            f"{self.dataset.path} {self.dataset.split}: {self.dataset.count:,} items, read "
            f"{self._reader.name}{', exchanged between nodes' if group.spans else ''}, ring of "
            f"{ring.slots} x {ring.slot_bytes / 1e6:.2f} MB for {ring.size} "
            f"rank{'s' * (ring.size > 1)}"
        )

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
    ) -> Iterator[tuple[Step, int, np.ndarray, np.ndarray]]:
        """What the ring holds, without copies: for those who convert items themselves.

        Parameters
        ----------
        epoch, start, stop
            Steps ``start .. stop - 1`` (default: to the end of the epoch).

        Yields
        ------
        tuple
            This data group's part of the step; the step's true items over all groups; ``x`` and
            ``y`` as they are on disk, shared with the other ranks and valid until the next one is
            asked for: read, do not write.
        """
        stop = self.steps_per_epoch if stop is None else stop
        job = self._feed.begin(epoch, start, stop)
        for number in range(start, stop):
            whole = self.order.step(epoch, number)
            own = whole.part(self.topology.data_rank, self.topology.data_size)
            slot = self._feed.take(job)
            arrays = {name: values[own.items] for name, values in self._held.items()}
            for raw, table in zip(self._views(slot), self._tables, strict=True):
                items = raw.view(table.spec.dtype).reshape(self._items, *table.spec.shape)
                arrays[table.array] = items
            yield own, whole.count, arrays["x"], arrays["y"]
            self._feed.release()

    def _batches(self, epoch: int, start: int) -> Iterator[Batch]:
        for own, count, x, y in self.raw(epoch, start):
            try:
                batch = self._convert(own, count, x, y)
            except HpcsampError as e:
                # all ranks of the group look at the same bytes, and so fail alike
                e.agreed = self._group.whole and not self._group.apart
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
        atexit.unregister(self._feed.stop)
        error = sys.exception()
        alone = error is not None and not getattr(error, "agreed", False)
        if alone and self.topology.size > 1:
            return
        if not self._feed.stop(60):
            raise HpcsampError("the prefetch thread hangs in a read that other ranks have left")
        self._reader.close()
        self.dataset.close()
        self._ring.free()
        self._group.free()

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _pin(memory: np.ndarray) -> None:
    """Register a ring with the GPU driver, so that copies from it are asynchronous."""
    address, size = memory.__array_interface__["data"][0], memory.nbytes
    code = int(torch.cuda.cudart().cudaHostRegister(address, size, 0))
    if code != 0:
        log.warning("the ring could not be pinned (CUDA error %d): copies will be slower", code)
