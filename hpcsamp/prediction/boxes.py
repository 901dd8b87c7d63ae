"""Locate the values of a box of items in a file, for arrays stored whole or in slabs.

An array in slabs is chunked, unfiltered and allocated when it is created, so HDF5 keeps no index
of its chunks: they are stored one after the other in C order, and those at the end of an axis are
as long as the others (HDF5 file format, fixed dimensions with early allocation: "implicit index").
Therefore a rank can write its own slab of an item with positional writes and any build of h5py, and
slabs of two ranks never overlap in the file.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from hpcsamp.data.slabs import Box, grid_of, meet, overlapping, slab_box


@dataclass(frozen=True)
class Piece:
    """Values of a box that are evenly spaced in a file.

    Attributes
    ----------
    offset
        Bytes from the start of the item.
    size, stride, count
        ``count`` blocks of ``size`` bytes; each block starts ``stride`` bytes after the previous
        one.
    at
        Index of these values in the box.
    """

    offset: int
    size: int
    stride: int
    count: int
    at: tuple[slice, ...]


def stored_bytes(shape: Sequence[int], slab: Sequence[int] | None, itemsize: int) -> int:
    """Bytes of an item in the file, including the padding at the ends of axes."""
    if slab is None:
        return math.prod(shape) * itemsize
    return math.prod(grid_of(shape, slab)) * math.prod(slab) * itemsize


def pieces(
    shape: Sequence[int], slab: Sequence[int] | None, box: Box, itemsize: int
) -> Iterator[Piece]:
    """Yield the positions in the file of the values of a box of an item.

    Parameters
    ----------
    shape
        Shape of an item.
    slab
        Shape of the slabs in which it is stored; ``None`` if it is stored whole.
    box
        Box to be written.
    itemsize
        Bytes per value.
    """
    full = tuple(shape if slab is None else slab)
    strides = [math.prod(full[axis + 1 :]) * itemsize for axis in range(len(full))]
    for number in overlapping(shape, full, box):
        chunk = slab_box(shape, full, number)
        common = meet(chunk, box)
        if common is None:
            continue
        begins = [a - c for (a, _), (c, _) in zip(common, chunk, strict=True)]
        counts = [b - a for a, b in common]
        starts = [a - b for (a, _), (b, _) in zip(common, box, strict=True)]
        first = number * math.prod(full) * itemsize
        first += sum(b * s for b, s in zip(begins, strides, strict=True))
        inner = len(full) - 1  # values are contiguous from this axis on
        while inner > 0 and counts[inner] == full[inner]:
            inner -= 1
        size = counts[inner] * strides[inner] if full else itemsize
        outer = max(inner - 1, 0)
        for index in np.ndindex(*counts[:outer]):
            at = [slice(s + i, s + i + 1) for s, i in zip(starts, index, strict=False)]
            at += [slice(s, s + n) for s, n in zip(starts[outer:], counts[outer:], strict=True)]
            skipped = sum(i * s for i, s in zip(index, strides, strict=False))
            count, stride = (counts[outer], strides[outer]) if inner > outer else (1, size)
            yield Piece(first + skipped, size, stride, count, tuple(at))
