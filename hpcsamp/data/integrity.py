"""Verify the checksum of each chunk once, on first read, by one rank of the group."""

from __future__ import annotations

import math

import numpy as np

from hpcsamp.data.dataset import Dataset
from hpcsamp.data.read_plan import ChunkTable, plan

SAMPLED = 16
"""``verify = "sampled"`` verifies one chunk out of this many."""


class Checker:
    """Verify each chunk of an array before the first batch that uses it.

    A chunk of small items is used by many batches, so it is read whole once, by rank
    ``chunk % size``. A chunk of a large item belongs to that item, and the rank that fetches its
    beginning verifies it, without a second read if it has fetched the whole chunk.

    Parameters
    ----------
    dataset, table
        The split and the positions of its chunks.
    marks
        One byte per chunk, shared by all ranks of the group: 1 for a verified chunk.
    rank, size
        Rank in the group, and its size.
    sampled
        Verify only one chunk out of :data:`SAMPLED` (always the same ones); the others are marked
        as verified from the start.
    """

    def __init__(
        self,
        dataset: Dataset,
        table: ChunkTable,
        marks: np.ndarray,
        rank: int,
        size: int,
        sampled: bool,
    ):
        self.dataset, self.table, self.marks = dataset, table, marks
        self.rank, self.size = rank, size
        if sampled:
            # Fibonacci hashing spreads the chosen chunks over all shards.
            mixed = np.arange(table.count, dtype=np.uint64) * np.uint64(0x9E37_79B9_7F4A_7C15)
            marks[(mixed >> np.uint64(32)) % np.uint64(SAMPLED) != 0] = 1

    def check(self, items: np.ndarray, part: range, out: np.ndarray) -> None:
        """Verify the chunks that a batch uses for the first time.

        Parameters
        ----------
        items
            Positions in the split of the whole batch.
        part
            Rows of the batch that this rank has fetched.
        out
            The batch's array as bytes, with this rank's part in place.

        Raises
        ------
        DataError
            If a checksum differs; the message names the file, the chunk and the items.
        """
        chunks = self.table.chunks_of(items)
        if self.table.spec.items_per_chunk > 1:
            new = chunks[(self.marks[chunks] == 0) & (chunks % self.size == self.rank)]
            for chunk in np.unique(new).tolist():
                self._check(chunk, None)
            return
        cutter = self.table.cutter
        each = np.arange(self.table.spec.chunks_per_item) if cutter is None else cutter.parts
        if self.marks[chunks[:, None] + each].all():
            return
        if cutter is not None:
            placed = self.table.placed(out)
            for s in self.table.shares(items, part):
                for cut in cutter.cuts(s.begin, s.end):
                    chunk = s.chunk + cut.part
                    if cut.begins and not self.marks[chunk]:
                        self._check(chunk, placed[s.place][cut.at] if cut.whole else None)
            return
        requests = plan(self.table, items, part)
        begins = np.flatnonzero((requests.within == 0) & (self.marks[requests.chunk] == 0))
        for i in begins.tolist():
            dest, size = int(requests.dest[i]), int(requests.size[i])
            self._check(int(requests.chunk[i]), out[dest : dest + size])

    def _check(self, chunk: int, fetched: np.ndarray | None) -> None:
        shard = int(np.searchsorted(self.table.base, chunk, side="right") - 1)
        number = chunk - int(self.table.base[shard])
        reader = self.dataset.reader(shard)
        whole = math.prod(s.stop - s.start for s in reader.box(self.table.array, number))
        size = whole * np.dtype(self.table.spec.dtype).itemsize
        if fetched is None or fetched.nbytes != size:
            fetched = reader.read_chunk(self.table.array, number)
        reader.check(self.table.array, number, np.ascontiguousarray(fetched))
        self.marks[chunk] = 1
