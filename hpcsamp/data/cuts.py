"""What a box of an item is read as: the chunks that overlap it, and the bytes within each.

From a chunk that lies inside the box every byte is needed. Of others the bytes from the first value
needed to the last are read at once, unless what lies between two of them is worth a read of its
own; so chunks that are no slabs of a box can be read too, only more of them.
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
"""Bytes in a file that are skipped by beginning another read rather than read and dropped."""


@dataclass(frozen=True)
class Run:
    """A contiguous read within a chunk.

    Attributes
    ----------
    index
        Where its values are along the first axes of the cut.
    begin, size
        Bytes from the beginning of the item's part of the chunk.
    shape, strides
        Of the values within these bytes, strides in bytes.
    """

    index: tuple[int, ...]
    begin: int
    size: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def exact(self) -> bool:
        """Whether all of its bytes are values of the box."""
        return self.size == math.prod(self.shape) * self.strides[-1]


@dataclass(frozen=True)
class Cut:
    """What a chunk has of a box of an item.

    Attributes
    ----------
    part
        Which chunk of the item.
    inside, at
        Where it is in the item's part of the chunk, and in the box.
    runs
        How it is read.
    begins
        Whether it has the first row that the box has of this chunk.
    whole
        Whether it is all of the chunk.
    """

    part: int
    inside: tuple[slice, ...]
    at: tuple[slice, ...]
    runs: tuple[Run, ...]
    begins: bool
    whole: bool


class Cutter:
    """Cuts of one array for one box.

    Parameters
    ----------
    spec
        The array.
    box
        What is needed of every item.

    Attributes
    ----------
    parts
        Chunks of an item that overlap the box, int64.
    starts
        Rows of the box at which other chunks begin, from 0 on.
    """

    def __init__(self, spec: ArraySpec, box: Box):
        self.spec, self.box = spec, box
        self.parts = np.asarray(overlapping(spec.shape, spec.part_shape, box), np.int64)
        (first, last), width = box[0], spec.part_shape[0]
        inner = range(-(-(first + 1) // width) * width, last, width)
        self.starts = [0, *(row - first for row in inner)]
        self.cuts = lru_cache(maxsize=256)(self._cuts)

    def _cuts(self, begin: int, end: int) -> list[Cut]:
        """Cuts for rows ``begin .. end - 1`` of the box."""
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
        """Bytes of a file that are read, over bytes of the box."""
        size = np.dtype(self.spec.dtype).itemsize
        cuts = self.cuts(0, shape_of(self.box)[0])
        if self.spec.compression:
            boxes = [slab_box(self.spec.shape, self.spec.part_shape, c.part) for c in cuts]
            read = sum(math.prod(shape_of(box)) for box in boxes) * size
        else:
            read = sum(run.size for cut in cuts for run in cut.runs)
        return read / (math.prod(shape_of(self.box)) * size)


def _runs(spec: ArraySpec, inside: Box) -> Iterator[Run]:
    """Reads of a box of an item's part of a chunk, whose rows lie as those of a full chunk."""
    size = np.dtype(spec.dtype).itemsize
    full, shape = spec.part_shape, shape_of(inside)
    strides = [size * math.prod(full[axis + 1 :]) for axis in range(len(full))]
    # bytes from the first to the last value over the axes from each on
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
        yield Run(index, begin + skipped, extent[outer], shape[outer:], tuple(strides[outer:]))
