"""Plan the reads for a box of an item: the overlapping chunks, and the byte ranges within each.

A chunk that lies inside the box is read whole. From other chunks, the bytes from the first to the
last value needed are read at once, unless the gap between two values is large enough for another
read. Chunks of any shape can therefore be read, at the cost of extra bytes if they do not fit the
box.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from hpcsamp.data.manifest import ArraySpec
from hpcsamp.data.slabs import Box, meet, overlapping, shape_of, slab_box, slices

GAP = 64 * 2**10
"""Smallest gap in a file, in bytes, that is skipped by a new read instead of read and dropped."""


@dataclass(frozen=True)
class ChunkRead:
    """A contiguous read within a chunk.

    Attributes
    ----------
    index
        Index of its values along the first axes of the cut.
    begin, size
        First byte and number of bytes, from the beginning of the item's part of the chunk.
    shape, strides
        Shape and strides (in bytes) of the needed values within these bytes.
    """

    index: tuple[int, ...]
    begin: int
    size: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def exact(self) -> bool:
        """Whether all bytes of the read are values of the box."""
        return self.size == math.prod(self.shape) * self.strides[-1]


@dataclass(frozen=True)
class Cut:
    """The intersection of a chunk with a box of an item.

    Attributes
    ----------
    part
        Number of the chunk within the item.
    inside, at
        Slices of the intersection in the item's part of the chunk, and in the box.
    runs
        The reads that fetch it.
    begins
        Whether it contains the first row of the box that lies in this chunk.
    whole
        Whether it is the whole chunk.
    """

    part: int
    inside: tuple[slice, ...]
    at: tuple[slice, ...]
    runs: tuple[ChunkRead, ...]
    begins: bool
    whole: bool


class Cutter:
    """Intersections of one box with the chunks of an array.

    Parameters
    ----------
    spec
        The array.
    box
        The box of every item that is needed.

    Attributes
    ----------
    parts
        Numbers of the chunks of an item that overlap the box, int64.
    starts
        Rows of the box at which chunks begin; the first entry is 0.
    """

    def __init__(self, spec: ArraySpec, box: Box):
        self.spec, self.box = spec, box
        self.parts = np.asarray(overlapping(spec.shape, spec.part_shape, box), np.int64)
        (first, last), width = box[0], spec.part_shape[0]
        inner = range(-(-(first + 1) // width) * width, last, width)
        self.starts = [0, *(row - first for row in inner)]
        self.cuts = lru_cache(maxsize=256)(self._cuts)

    def _cuts(self, begin: int, end: int) -> list[Cut]:
        """Return the cuts that cover rows ``begin .. end - 1`` of the box."""
        spec, found = self.spec, []
        first = self.box[0][0]
        wanted = ((first + begin, first + end), *self.box[1:])
        for part in self.parts.tolist():
            chunk = slab_box(spec.shape, spec.part_shape, part)
            common = meet(chunk, wanted)
            if common is not None:
                found.append(self._cut(part, chunk, common))
        return found

    def _cut(self, part: int, chunk: Box, common: Box) -> Cut:
        inside = tuple((a - c, b - c) for (a, b), (c, _) in zip(common, chunk, strict=True))
        return Cut(
            part,
            slices(common, chunk),
            slices(common, self.box),
            tuple(_runs(self.spec, inside)),
            common[0][0] == max(chunk[0][0], self.box[0][0]),
            common == chunk,
        )

    @property
    def ratio(self) -> float:
        """Ratio of the bytes read from a file to the bytes of the box."""
        size = np.dtype(self.spec.dtype).itemsize
        cuts = self.cuts(0, shape_of(self.box)[0])
        if self.spec.compression:
            boxes = [slab_box(self.spec.shape, self.spec.part_shape, c.part) for c in cuts]
            read = sum(math.prod(shape_of(box)) for box in boxes) * size
        else:
            read = sum(run.size for cut in cuts for run in cut.runs)
        return read / (math.prod(shape_of(self.box)) * size)


def _runs(spec: ArraySpec, inside: Box) -> Iterator[ChunkRead]:
    """Plan the reads for a box within an item's part of a chunk.

    The rows of a partial chunk at the end of an item are laid out as in a full chunk.
    """
    size = np.dtype(spec.dtype).itemsize
    full, shape = spec.part_shape, shape_of(inside)
    strides = [size * math.prod(full[axis + 1 :]) for axis in range(len(full))]
    # extent[a]: bytes from the first to the last value along axes a, a + 1, ...
    extent = [size] * (len(full) + 1)
    for axis in reversed(range(len(full))):
        extent[axis] = extent[axis + 1] + (shape[axis] - 1) * strides[axis]
    apart = [
        axis
        for axis in range(len(full))
        if shape[axis] > 1 and strides[axis] - extent[axis + 1] >= GAP
    ]
    outer = apart[-1] + 1 if apart else 0
    begin = sum(start * stride for (start, _), stride in zip(inside, strides, strict=True))
    for index in np.ndindex(*shape[:outer]):
        skipped = sum(i * stride for i, stride in zip(index, strides[:outer], strict=True))
        yield ChunkRead(
            index, begin + skipped, extent[outer], shape[outer:], tuple(strides[outer:])
        )
