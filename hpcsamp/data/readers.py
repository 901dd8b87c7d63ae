"""Readers of shards: direct, serial and collective reads of a rank's part of a batch.

``direct``: positional reads at the chunk offsets in the manifest; any number of ranks, uncompressed
data. ``serial``: HDF5 reads chunk by chunk; also for compressed data. ``collective``: collective
HDF5 reads through MPI-IO on the group's communicator, for file systems that prefer few large
requests.

A dataset that is much smaller than memory can be held there instead: see
:mod:`hpcsamp.data.held`.
"""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from collections import OrderedDict
from typing import TYPE_CHECKING

import h5py
import numpy as np
from numpy.lib.stride_tricks import as_strided

from hpcsamp.data.agreement import agree
from hpcsamp.data.cuts import Cutter
from hpcsamp.data.dataset import Dataset
from hpcsamp.data.read_plan import ChunkTable, Requests, Share, plan, runs
from hpcsamp.data.slabs import shape_of, slab_box
from hpcsamp.errors import DataError, UsageError
from hpcsamp.names import ReaderName
from hpcsamp.serial import Comm, library

if TYPE_CHECKING:
    from mpi4py import MPI

    from hpcsamp.data.group import ReadingGroup

OPEN_FILES = 128
"""Largest number of shards that a rank keeps open."""

CHUNK_CACHE_BYTES = 64 * 2**20
"""Bytes of decoded chunks that the serial reader caches."""


Slab = tuple[tuple[int, ...], tuple[int, ...]]
"""Start and count of a hyperslab."""


def choose_reader(dataset: Dataset, wanted: ReaderName) -> ReaderName:
    """Choose the reader for a split from the configured name.

    ``"auto"`` is ``direct`` for uncompressed chunks and ``serial`` for compressed ones.
    ``"broadcast"`` is the same as ``"auto"``: with any reader, the nodes of a group exchange the
    rows that they have read. ``"memory"`` is returned unchanged: it stands for
    :class:`~hpcsamp.data.held.SplitInMemory`.

    Raises
    ------
    UsageError
        If the requested reader cannot read this dataset, or needs an h5py that was built with MPI.
    """
    filters = {s.compression for s in dataset.manifest.arrays.values() if s.compression}
    if wanted == "direct" and filters:
        raise UsageError(
            f'data.reader = "direct" can only read uncompressed chunks, but those of '
            f"{dataset.path} are compressed ({', '.join(sorted(filters))}); choose "
            f'"serial" or "auto"'
        )
    if wanted == "collective" and not h5py.get_config().mpi:
        raise UsageError(
            'data.reader = "collective" needs an h5py that was built with MPI; choose "auto", or '
            "build it as envs/build_wheels.sh does"
        )
    if wanted in ("auto", "broadcast"):
        return "serial" if filters else "direct"
    return wanted


def make_reader(name: ReaderName, dataset: Dataset, group: ReadingGroup) -> Reader:
    """Make a reader from its name as returned by :func:`choose_reader`."""
    if name == "collective" and isinstance(group.comm, Comm):
        name = choose_reader(dataset, "auto")  # there are no other ranks without MPI
    if name == "collective":
        return CollectiveReader(dataset, group.comm)
    return SerialReader(dataset) if name == "serial" else DirectReader(dataset)


class Reader(ABC):
    """Base class of readers.

    Attributes
    ----------
    name
        Value of ``data.reader`` in the configuration.
    collective
        Whether every call is collective over the group; its ranks then also call
        :meth:`agree`.
    """

    name: str
    collective = False

    @abstractmethod
    def fetch(self, table: ChunkTable, items: np.ndarray, part: range, out: np.ndarray) -> None:
        """Read this rank's part of a batch into the batch's array.

        Parameters
        ----------
        table
            Positions of the array's chunks.
        items
            Positions in the split of the whole batch.
        part
            Rows of the batch that this rank reads, see :func:`~hpcsamp.data.read_plan.part_of`.
        out
            The array of the whole batch as bytes, uint8; only the part is written.

        Raises
        ------
        DataError
            If a shard cannot be read; the message names it.
        """

    def agree(self, error: BaseException | None) -> BaseException | None:
        """Return the error of any rank of the group on all its ranks, if reads are collective."""
        return error

    @abstractmethod
    def close(self) -> None:
        """Close all files."""


class DirectReader(Reader):
    """Positional reads (``preadv``) directly into the batch."""

    name = "direct"

    def __init__(self, dataset: Dataset):
        self.dataset = dataset
        self._files: OrderedDict[int, int] = OrderedDict()
        self._buffer = np.empty(0, np.uint8)

    def _file(self, shard: int) -> int:
        if shard in self._files:
            self._files.move_to_end(shard)
            return self._files[shard]
        path = self.dataset.path / self.dataset.shards[shard].file
        try:
            self._files[shard] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as e:
            raise DataError(f"{path}: cannot be opened: {e.strerror}") from e
        if len(self._files) > OPEN_FILES:
            os.close(self._files.popitem(last=False)[1])
        return self._files[shard]

    def fetch(self, table: ChunkTable, items: np.ndarray, part: range, out: np.ndarray) -> None:
        """See :class:`Reader`."""
        if table.cutter is not None:
            self._fetch_cuts(table, table.cutter, items, part, out)
            return
        target = out.data
        preadv = os.preadv
        last, descriptor = -1, -1
        pieces = (column.tolist() for column in runs(table, items, part))
        for shard, offset, dest, size in zip(*pieces, strict=True):
            if shard != last:
                last, descriptor = shard, self._file(shard)
            got = preadv(descriptor, (target[dest : dest + size],), offset)
            if got != size:
                self._rest(shard, descriptor, target[dest : dest + size], offset, got)

    def _fetch_cuts(
        self, table: ChunkTable, cutter: Cutter, items: np.ndarray, part: range, out: np.ndarray
    ) -> None:
        """Read boxes of items, directly into the batch if a read is contiguous there."""
        placed = table.placed(out)
        for s in table.shares(items, part):
            descriptor = self._file(s.shard)
            inside = s.local % table.spec.items_per_chunk * table.spec.item_bytes
            for cut in cutter.cuts(s.begin, s.end):
                target = placed[s.place][cut.at]
                offset = int(table.offset[s.chunk + cut.part]) + inside
                for run in cut.runs:
                    to = target[run.index]
                    straight = run.exact and to.flags.c_contiguous
                    raw = to.reshape(-1).view(np.uint8) if straight else self._room(run.size)
                    self._rest(s.shard, descriptor, raw.data, offset + run.begin, 0)
                    if not straight:
                        to[...] = as_strided(raw.view(to.dtype), run.shape, run.strides)

    def _room(self, size: int) -> np.ndarray:
        """Return a buffer for a read of which only some values are needed."""
        if len(self._buffer) < size:
            self._buffer = np.empty(size, np.uint8)
        return self._buffer[:size]

    def _rest(self, shard: int, descriptor: int, out: memoryview, offset: int, got: int) -> None:
        """Complete a read that returned only ``got`` bytes: it may stop at 2 GiB or on a signal."""
        while got < len(out):
            more = os.preadv(descriptor, (out[got:],), offset + got)
            if more == 0:
                path = self.dataset.path / self.dataset.shards[shard].file
                raise DataError(
                    f"{path} is truncated: {len(out)} bytes were requested at offset {offset}, "
                    f"but only {got} could be read"
                )
            got += more

    def close(self) -> None:
        """Close all files."""
        while self._files:
            os.close(self._files.popitem()[1])


class SerialReader(Reader):
    """HDF5 reads of whole chunks, decompressed; the last ones are cached."""

    name = "serial"

    def __init__(self, dataset: Dataset):
        self.dataset = dataset
        self._kept: OrderedDict[tuple[str, int], np.ndarray] = OrderedDict()
        self._bytes = 0

    def _chunk(self, table: ChunkTable, shard: int, chunk: int) -> np.ndarray:
        key = (table.array, chunk)
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        number = chunk - int(table.base[shard])
        values = self.dataset.reader(shard).read_chunk(table.array, number)
        self._kept[key] = values.reshape(-1).view(np.uint8)
        self._bytes += values.nbytes
        while self._bytes > CHUNK_CACHE_BYTES and len(self._kept) > 1:
            self._bytes -= self._kept.popitem(last=False)[1].nbytes
        return self._kept[key]

    def fetch(self, table: ChunkTable, items: np.ndarray, part: range, out: np.ndarray) -> None:
        """See :class:`Reader`."""
        if table.cutter is not None:
            self._fetch_cuts(table, table.cutter, items, part, out)
            return
        r, row_bytes = plan(table, items, part), table.spec.row_bytes
        columns = (r.shard, r.chunk, r.within * row_bytes, r.dest, r.size)
        for shard, chunk, begin, dest, size in zip(*(c.tolist() for c in columns), strict=True):
            raw = self._chunk(table, shard, chunk)
            out[dest : dest + size] = raw[begin : begin + size]

    def _fetch_cuts(
        self, table: ChunkTable, cutter: Cutter, items: np.ndarray, part: range, out: np.ndarray
    ) -> None:
        spec, placed = table.spec, table.placed(out)
        for s in table.shares(items, part):
            for cut in cutter.cuts(s.begin, s.end):
                raw = self._chunk(table, s.shard, s.chunk + cut.part)
                shape = shape_of(slab_box(spec.shape, spec.part_shape, cut.part))
                values = raw.view(spec.dtype).reshape(-1, *shape)
                placed[s.place][cut.at] = values[s.local % spec.items_per_chunk][cut.inside]

    def close(self) -> None:
        """Clear the cache; the files belong to the dataset."""
        self._kept.clear()
        self._bytes = 0


class CollectiveReader(Reader):
    """Collective HDF5 reads through MPI-IO: all ranks of a group take part in every call.

    Parameters
    ----------
    dataset
        The split.
    comm
        The group's communicator, which must not be used otherwise during a read.
    """

    name = "collective"
    collective = True

    def __init__(self, dataset: Dataset, comm: MPI.Comm):
        self.dataset, self.comm = dataset, comm
        self._files: dict[int, h5py.File] = {}
        # `with dataset.collective: dataset[...]` is not a collective transfer (h5py 3.16)
        self._transfer = h5py.h5p.create(h5py.h5p.DATASET_XFER)
        self._transfer.set_dxpl_mpio(h5py.h5fd.MPIO_COLLECTIVE)

    def _file(self, shard: int) -> h5py.File:
        if shard not in self._files:
            if len(self._files) >= OPEN_FILES:
                self._files.pop(next(iter(self._files))).close()
            path = self.dataset.path / self.dataset.shards[shard].file
            try:
                self._files[shard] = h5py.File(path, "r", driver="mpio", comm=self.comm)
            except OSError as e:
                raise DataError(f"{path}: cannot be opened: {e}") from e
        return self._files[shard]

    def fetch(self, table: ChunkTable, items: np.ndarray, part: range, out: np.ndarray) -> None:
        """See :class:`Reader`; collective over the group.

        Every rank takes part in the reads of each shard with items of the batch, even if it reads
        nothing itself.
        """
        shards = np.unique(np.searchsorted(self.dataset.firsts, items, side="right") - 1)
        if table.cutter is not None:
            self._fetch_boxes(table, shards, list(table.shares(items, part)), out)
            return
        requests = plan(table, items, part)
        for shard in shards.tolist():
            own = np.flatnonzero(requests.shard == shard)
            self._fetch_shard(table, requests, own, shard, out)

    def _fetch_shard(
        self, table: ChunkTable, r: Requests, own: np.ndarray, shard: int, out: np.ndarray
    ) -> None:
        MPI = library(self.comm)  # noqa: N806
        spec = table.spec
        # Each piece is read once, in file order; neighbours are joined.
        pieces = np.stack([r.local[own], r.row[own], r.rows[own]], axis=1)
        boxes, back = np.unique(pieces, axis=0, return_inverse=True)
        sizes = boxes[:, 2] * spec.row_bytes
        begin = np.concatenate([[0], np.cumsum(sizes)])
        buffer = np.empty(int(begin[-1]), np.uint8)
        slabs = _slabs(boxes, tuple(spec.shape))
        # All ranks make as many calls as the one with the most pieces. A read of one regular slab
        # into memory of the same shape takes HDF5's fast path; a union costs 50 ns per element.
        calls = self.comm.allreduce(len(slabs), op=MPI.MAX)
        dataset, done = self._file(shard)[table.array], 0
        for call in range(calls):
            slab = slabs[call] if call < len(slabs) else None
            size = 0 if slab is None else math.prod(slab[1]) * np.dtype(spec.dtype).itemsize
            self._read(dataset, slab, buffer[done : done + size].view(spec.dtype), shard)
            done += size
        for i, box in zip(own.tolist(), back.reshape(-1).tolist(), strict=True):
            dest = int(r.dest[i])
            out[dest : dest + int(sizes[box])] = buffer[begin[box] : begin[box + 1]]

    def _fetch_boxes(
        self, table: ChunkTable, shards: np.ndarray, shares: list[Share], out: np.ndarray
    ) -> None:
        """Read boxes of items directly into the batch, with one call per item."""
        MPI = library(self.comm)  # noqa: N806
        box, placed = table.box, table.placed(out)
        for shard in shards.tolist():
            own = [s for s in shares if s.shard == shard]
            dataset = self._file(shard)[table.array]
            for call in range(self.comm.allreduce(len(own), op=MPI.MAX)):
                if call >= len(own):
                    self._read(dataset, None, np.empty(0, table.spec.dtype), shard)
                    continue
                s = own[call]
                start = (s.local, box[0][0] + s.begin, *(a for a, _ in box[1:]))
                count = (1, s.end - s.begin, *table.shape[1:])
                self._read(dataset, (start, count), placed[s.place, s.begin : s.end], shard)

    def _read(self, dataset: h5py.Dataset, slab: Slab | None, out: np.ndarray, shard: int) -> None:
        """Make one collective call; a rank with nothing to read passes ``slab = None``."""
        file_space = dataset.id.get_space()
        if slab is None:
            file_space.select_none()
            memory = h5py.h5s.create_simple((1,))
            memory.select_none()
            out = np.empty(1, out.dtype)
        else:
            file_space.select_hyperslab(*slab)
            memory = h5py.h5s.create_simple(slab[1])
        try:
            dataset.id.read(memory, file_space, out, dxpl=self._transfer)
        except (OSError, RuntimeError) as e:
            path = self.dataset.path / self.dataset.shards[shard].file
            raise DataError(f"{path}: cannot be read: {e}") from e

    def agree(self, error: BaseException | None) -> BaseException | None:
        """Make all ranks of the group fail if one has failed; their next read would not return."""
        return agree(self.comm, error)

    def close(self) -> None:
        """Close all files; collective over the group."""
        while self._files:
            self._files.popitem()[1].close()


def _slabs(boxes: np.ndarray, shape: tuple[int, ...]) -> list[Slab]:
    """Hyperslabs ``(start, count)`` of ``(item, row, rows)`` boxes; neighbours are joined."""
    slabs: list[Slab] = []
    whole = shape[0] if shape else 1
    first, last = 0, 0
    while first < len(boxes):
        item, row, rows = boxes[first].tolist()
        last = first + 1
        if rows == whole:
            while last < len(boxes) and boxes[last].tolist() == [item + last - first, 0, whole]:
                last += 1
        start, count = (item,), (last - first,)
        if shape:
            start, count = (item, row) + (0,) * (len(shape) - 1), (*count, rows, *shape[1:])
        slabs.append((start, count))
        first = last
    return slabs
