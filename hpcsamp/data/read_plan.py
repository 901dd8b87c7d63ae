"""Plan which bytes of which files a rank reads for its part of a batch, without opening files.

A batch of ``b`` items of an array is a sequence of ``b * rows`` rows (the first axis of the items).
The ranks that share it read contiguous parts of that sequence, so that even a batch of two huge
items is divided evenly among eight ranks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from hpcsamp.data.cuts import Cutter
from hpcsamp.data.dataset import Dataset
from hpcsamp.data.slabs import Box, shape_of, whole
from hpcsamp.grid import share


class ChunkTable:
    """Positions of the chunks of one array of a split in all its shards.

    Parameters
    ----------
    dataset
        The split.
    array
        Name of the array.
    box
        The box of every item that is needed; default: whole items.

    Attributes
    ----------
    spec
        The array.
    base
        Number of the first chunk of each shard, numbered across all shards of the split; int64.
    offset
        File offset of every chunk; int64.
    shape
        Shape of the box. The first axis holds the rows.
    cutter
        Intersections of the box with the chunks; ``None`` if whole items are needed and chunks hold
        whole rows.
    """

    def __init__(self, dataset: Dataset, array: str, box: Box | None = None):
        self.spec = spec = dataset.manifest.arrays[array]
        self.array = array
        self.firsts = dataset.firsts
        each = [s.chunks[array].array() for s in dataset.shards]
        self.base = np.concatenate([[0], np.cumsum([len(e) for e in each])]).astype(np.int64)
        self.offset = np.concatenate(each)
        self.box = whole(spec.shape) if box is None else box
        self.shape = shape_of(self.box)
        plain = spec.slab is None and self.shape == tuple(spec.shape)
        self.cutter = None if plain else Cutter(spec, self.box)

    @property
    def rows(self) -> int:
        """Number of rows of an item's box. A row is never divided between ranks."""
        return self.shape[0] if self.shape else 1

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return math.prod(self.shape[1:]) * np.dtype(self.spec.dtype).itemsize

    @property
    def item_bytes(self) -> int:
        """Bytes of an item's box."""
        return self.rows * self.row_bytes

    @property
    def count(self) -> int:
        """Number of chunks in the split."""
        return int(self.base[-1])

    def place(self, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Shard and file offset of whole items, for arrays whose chunks hold whole items."""
        shard = np.searchsorted(self.firsts, items, side="right") - 1
        group, inside = np.divmod(items - self.firsts[shard], self.spec.items_per_chunk)
        return shard, self.offset[self.base[shard] + group] + inside * self.spec.item_bytes

    def chunks_of(self, items: np.ndarray) -> np.ndarray:
        """The first chunk of every item, numbered across all shards; int64 of shape ``(b,)``."""
        shard = np.searchsorted(self.firsts, items, side="right") - 1
        group = (items - self.firsts[shard]) // self.spec.items_per_chunk
        return self.base[shard] + group * self.spec.chunks_per_item

    def shares(self, items: np.ndarray, part: range) -> Iterator[Share]:
        """Yield the rows ``part`` of a batch, item by item, in the order of the files."""
        own = range(part.start // self.rows, -(-part.stop // self.rows) if len(part) else 0)
        wanted = np.asarray(items, np.int64)[own.start : own.stop]
        shard = np.searchsorted(self.firsts, wanted, side="right") - 1
        local = wanted - self.firsts[shard]
        chunk = self.chunks_of(wanted)
        for i in np.argsort(wanted, kind="stable").tolist():
            place = own.start + i
            yield Share(
                place,
                max(part.start - place * self.rows, 0),
                min(part.stop - place * self.rows, self.rows),
                int(shard[i]),
                int(local[i]),
                int(chunk[i]),
            )

    def placed(self, out: np.ndarray) -> np.ndarray:
        """View the bytes of a batch of n items as an array of shape ``(n, *shape)``."""
        return out.view(self.spec.dtype).reshape(-1, *self.shape)


@dataclass(frozen=True)
class Share:
    """The rows of one item that a rank reads.

    Attributes
    ----------
    place
        Position of the item in the batch.
    begin, end
        Rows ``begin .. end - 1`` of the item's box.
    shard, local
        Shard of the split, and position of the item in the shard.
    chunk
        First chunk of the item, numbered across all shards of the split.
    """

    place: int
    begin: int
    end: int
    shard: int
    local: int
    chunk: int


@dataclass(frozen=True)
class Requests:
    """Pieces to read, each within one chunk, ordered by their position in the files.

    Attributes (int64, one entry per piece)
    ---------------------------------------
    shard
        Number of the shard in the split.
    chunk
        Number of the chunk, numbered across all shards of the split.
    local
        Position of the item in the shard.
    row
        First row of the item.
    rows
        Number of rows.
    within
        First row, counted from the beginning of the chunk.
    offset
        Offset in the file, in bytes.
    dest
        Offset in the batch's array, in bytes.
    size
        Number of bytes.
    """

    shard: np.ndarray
    chunk: np.ndarray
    local: np.ndarray
    row: np.ndarray
    rows: np.ndarray
    within: np.ndarray
    offset: np.ndarray
    dest: np.ndarray
    size: np.ndarray

    def __len__(self) -> int:
        return len(self.shard)

    def runs(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """``shard, offset, dest, size`` of the reads; adjacent pieces are joined to one read."""
        if not len(self):
            return self.shard, self.offset, self.dest, self.size
        joined = (
            (self.shard[1:] == self.shard[:-1])
            & (self.offset[1:] == self.offset[:-1] + self.size[:-1])
            & (self.dest[1:] == self.dest[:-1] + self.size[:-1])
        )
        if not joined.any():
            return self.shard, self.offset, self.dest, self.size
        start = np.flatnonzero(np.concatenate([[True], ~joined]))
        size = np.add.reduceat(self.size, start)
        return self.shard[start], self.offset[start], self.dest[start], size


def part_of(table: ChunkTable, items: int, parts: int, index: int) -> range:
    """Rows of a batch of ``items`` items that rank ``index`` of ``parts`` ranks reads.

    Ranks read whole items if there are enough of them for an even division, and any rows otherwise.
    If only boxes of items are read, ranks read the rows of whole chunks, so that no chunk is needed
    by two ranks.
    """
    rows = table.rows
    if not table.item_bytes:
        return range(0)
    if table.cutter is not None:
        starts = table.cutter.starts
        units = items * len(starts)
        if units >= 4 * parts or units % parts == 0:
            own = share(units, parts, index)
            begin, end = (
                at // len(starts) * rows + starts[at % len(starts)] for at in (own.start, own.stop)
            )
            return range(begin, end)
    elif items >= 4 * parts:
        own = share(items, parts, index)
        return range(own.start * rows, own.stop * rows)
    return share(items * rows, parts, index)


def runs(
    table: ChunkTable, items: np.ndarray, part: range
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """``shard, offset, dest, size`` of the reads for rows ``part`` of a batch.

    The result equals :meth:`Requests.runs` of :func:`plan`, at a fraction of the cost if items are
    whole.
    """
    spec = table.spec
    if spec.chunks_per_item > 1 or part.start % spec.rows or part.stop % spec.rows or not part:
        return plan(table, items, part).runs()
    first, size = part.start // spec.rows, spec.item_bytes
    own = items[first : part.stop // spec.rows]
    order = own.argsort()
    ascending = own[order]
    shard, offset = table.place(ascending)
    dest = (order + first) * size
    joined = (offset[1:] - offset[:-1] == size) & (dest[1:] - dest[:-1] == size)
    sizes = np.full(len(own), size)
    if not joined.any():
        return shard, offset, dest, sizes
    joined &= shard[1:] == shard[:-1]
    start = np.flatnonzero(np.concatenate([[True], ~joined]))
    return shard[start], offset[start], dest[start], np.add.reduceat(sizes, start)


def plan(table: ChunkTable, items: np.ndarray, part: range) -> Requests:
    """Plan the pieces to read for rows ``part`` of a batch.

    Parameters
    ----------
    table
        Positions of the array's chunks.
    items
        Positions in the split of the whole batch, shape ``(b,)``.
    part
        Rows of ``range(b * spec.rows)``.
    """
    spec = table.spec
    all_rows, per_chunk = spec.rows, spec.rows_per_chunk
    place = np.arange(part.start // all_rows, -(-part.stop // all_rows) if len(part) else 0)
    begin = np.maximum(part.start - place * all_rows, 0)
    end = np.minimum(part.stop - place * all_rows, all_rows)
    section = np.zeros(len(place), np.int64)
    if spec.chunks_per_item > 1:
        first = begin // per_chunk
        pieces = -(-end // per_chunk) - first
        which = np.repeat(np.arange(len(place)), pieces)
        inner = np.arange(len(which)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
        section = first[which] + inner
        place = place[which]
        begin = np.maximum(begin[which], section * per_chunk)
        end = np.minimum(end[which], (section + 1) * per_chunk)
    item = np.asarray(items, np.int64)[place]
    shard = np.searchsorted(table.firsts, item, side="right") - 1
    local = item - table.firsts[shard]
    inside = local % spec.items_per_chunk
    chunk = table.base[shard] + local // spec.items_per_chunk * spec.chunks_per_item + section
    within = inside * all_rows + begin - section * per_chunk
    found = Requests(
        shard=shard,
        chunk=chunk,
        local=local,
        row=begin,
        rows=end - begin,
        within=within,
        offset=table.offset[chunk] + within * spec.row_bytes,
        dest=(place * all_rows + begin) * spec.row_bytes,
        size=(end - begin) * spec.row_bytes,
    )
    order = np.lexsort((found.dest, found.offset, found.shard))
    return Requests(**{name: values[order] for name, values in vars(found).items()})
