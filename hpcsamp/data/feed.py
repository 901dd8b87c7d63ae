"""Feed of a sample group: each rank reads a part of every batch into a shared ring buffer."""

from __future__ import annotations

import atexit
import logging
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np
import torch

from hpcsamp.data.dataset import Dataset
from hpcsamp.data.following import Follows, read_for
from hpcsamp.data.group import ReadingGroup
from hpcsamp.data.integrity import Checker
from hpcsamp.data.order import Order
from hpcsamp.data.parts import ReadBoxes, SharedArrays
from hpcsamp.data.prefetch import Prefetcher
from hpcsamp.data.read_plan import ChunkTable, part_of
from hpcsamp.data.readers import Reader, make_reader
from hpcsamp.data.ring import Ring, fit
from hpcsamp.errors import HpcsampError
from hpcsamp.explain import more
from hpcsamp.names import ReaderName, Verify

if TYPE_CHECKING:
    from hpcsamp.grid import Topology


log = logging.getLogger(__name__)


class Feed:
    """Prefetched batches of some arrays of a split. Collective over the world.

    Parameters
    ----------
    dataset
        The split.
    parts
        The parts of every item that this rank needs.
    of
        The arrays to read, and the ranks that share them.
    topology
        The grid.
    order
        The order of the items, which defines the items of each step.
    reading
        Name of the reader, as returned by :func:`~hpcsamp.data.readers.choose_reader`.
    verify, slots, follows
        See :class:`~hpcsamp.data.Loader`.

    Raises
    ------
    UsageError
        On every rank, if shared memory has no room for two batches.
    """

    def __init__(
        self,
        dataset: Dataset,
        parts: ReadBoxes,
        of: SharedArrays,
        topology: Topology,
        order: Order,
        reading: ReaderName,
        verify: Verify,
        slots: int,
        follows: Follows,
    ) -> None:
        self.dataset, self.topology, self.order = dataset, topology, order
        self._follows = follows
        self._tables = [ChunkTable(dataset, n, parts.stored[n]) for n in of.names]
        # items of each array: those of the batch, or several for each of them
        each = order.batch // topology.data_size
        self._items = {n: each * follows[n].shape[1] if n in follows else each for n in of.names}
        self._group = ReadingGroup(topology, of.comm(topology), of.color(topology))
        self._reader: Reader = make_reader(reading, dataset, self._group)
        self._ring = self._make_ring(slots)
        self._checkers = self._make_checkers(verify)
        self._prefetcher = Prefetcher(
            self._ring,
            self._fill,
            leaders=self._group.leaders,
            many=self._group.many,
            exchange=self._exchange if self._group.spans else None,
            agree=self._reader.agree if self._reader.collective else None,
            whole=self._group.whole,
        )
        # the thread must not outlive MPI: a feed that was not closed is stopped at exit
        atexit.register(self._prefetcher.stop, 10.0)

    def _make_ring(self, slots: int) -> Ring:
        group = self._group
        sizes = [-(-self._items[t.array] * t.item_bytes // 64) * 64 for t in self._tables]
        self._begins = np.cumsum([0, *sizes[:-1]]).tolist()
        shared = group.ring_comm.Get_size() > 1
        leads = shared and group.ring_comm.Get_rank() == 0
        room = fit(self.topology.node_comm, self.topology.world, sum(sizes), slots, leads)
        if room.slots < slots and self.topology.is_root:
            log.warning(
                "shared memory has %.0f MB free: the ring holds %d batches instead of %d%s",
                room.free / 1e6,
                room.slots,
                slots,
                more("shared-memory"),
            )
        ring = Ring(group.ring_comm, sum(sizes), room.slots, sum(t.count for t in self._tables))
        self._pinned = self.topology.device.type == "cuda" and _pin(ring.memory)
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

    # Called by the prefetch thread ---------------------------------------------------------------

    def _fill(self, epoch: int, step: int, slot: np.ndarray) -> None:
        """Read this rank's part of a batch into a slot, and verify chunks on their first read."""
        group, d = self._group, self.topology
        own = self.order.step(epoch, step).part(d.data_rank, d.data_size).items
        views = self._views(slot)
        items = [read_for(own, self._follows.get(t.array)) for t in self._tables]
        parts = [
            part_of(t, len(of), group.size, group.position)
            for t, of in zip(self._tables, items, strict=True)
        ]
        for table, of, part, out in zip(self._tables, items, parts, views, strict=True):
            if table.item_bytes:  # otherwise the part of these ranks is empty
                self._reader.fetch(table, of, part, out)
        for checker, of, part, out in zip(self._checkers, items, parts, views, strict=False):
            if checker.table.item_bytes:
                checker.check(of, part, out)

    def _views(self, slot: np.ndarray) -> list[np.ndarray]:
        """The arrays in a slot, as bytes."""
        return [
            slot[begin : begin + self._items[table.array] * table.item_bytes]
            for begin, table in zip(self._begins, self._tables, strict=True)
        ]

    def _exchange(self, slot: np.ndarray) -> None:
        """Receive the rows that other nodes of the group have read, and send this node's rows."""
        for table, out in zip(self._tables, self._views(slot), strict=True):
            if not table.item_bytes:
                continue
            group, count = self._group, self._items[table.array]
            parts = [part_of(table, count, group.size, i) for i in group.firsts[:-1]]
            cuts = [*(part.start for part in parts), count * table.rows]
            group.exchange(out, cuts, table.row_bytes)

    # Called by the loader ------------------------------------------------------------------------

    @property
    def waited(self) -> float:
        """Seconds that this rank has waited for batches so far."""
        return self._prefetcher.waited

    def describe(self) -> str:
        """Describe how batches are read and the size of the ring, for the log."""
        group, ring = self._group, self._ring
        return (
            f"read {self._reader.name}{', exchanged between nodes' if group.spans else ''}, ring "
            f"of {ring.slots} x {ring.slot_bytes / 1e6:.2f} MB for {ring.size} "
            f"rank{'s' * (ring.size > 1)}"
        )

    def run(self, epoch: int, start: int, stop: int) -> Iterator[dict[str, np.ndarray]]:
        """Yield this data group's arrays of steps ``start .. stop - 1``, by name.

        The arrays are views of the shared ring and stay valid until the next step is requested.
        """
        job = self._prefetcher.begin(epoch, start, stop)
        for _ in range(start, stop):
            slot = self._prefetcher.take(job)
            yield {
                table.array: raw.view(table.spec.dtype).reshape(
                    self._items[table.array], *table.shape
                )
                for raw, table in zip(self._views(slot), self._tables, strict=True)
            }
            self._prefetcher.release()

    def close(self, alone: bool) -> None:
        """Stop the thread, close the files and free the ring. Collective, unless ``alone``.

        Raises
        ------
        HpcsampError
            If the thread does not stop because it hangs in a read.
        """
        atexit.unregister(self._prefetcher.stop)
        if alone:
            return
        if not self._prefetcher.stop(60):
            raise HpcsampError(
                "the prefetch thread hangs in a read in which the other ranks no longer take part"
            )
        self._reader.close()
        if self._pinned:
            _unpin(self._ring.memory)
        self._ring.free()
        self._group.free()


def _pin(memory: np.ndarray) -> bool:
    """Register a ring with the GPU driver, so that copies from it are asynchronous.

    Returns whether it is registered. It must then not be freed before :func:`_unpin`: the driver
    would go on to take its addresses for pinned, and refuse the next ring that gets them.
    """
    address, size = memory.__array_interface__["data"][0], memory.nbytes
    code = int(torch.cuda.cudart().cudaHostRegister(address, size, 0))
    if code != 0:
        log.warning(
            "the memory of batches could not be pinned (CUDA error %d): copies will be slower", code
        )
        _forget_error()
    return code == 0


def _forget_error() -> None:
    """Clear the error that CUDA keeps after a failed call, which the next kernel would raise."""
    with suppress(RuntimeError):
        torch.ones(1, device="cuda")


def _unpin(memory: np.ndarray) -> None:
    """Undo :func:`_pin`, after the last copy from the ring has ended."""
    torch.cuda.cudart().cudaHostUnregister(memory.__array_interface__["data"][0])
