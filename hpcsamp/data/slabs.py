"""Boxes within an item: slabs in which large items are stored, and parts that ranks read.

A box has a ``(start, stop)`` for each axis of an item. A slab is the shape of the boxes into which
an item is cut for storage; these form a regular grid, numbered in C order, and the last ones along
an axis may be smaller.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product

Box = tuple[tuple[int, int], ...]

SPLITS = (2, 3, 4)
"""Model-rank counts for which parts should consist of whole slabs, if the axis length allows it.
"""


def whole(shape: Sequence[int]) -> Box:
    """The box that contains a whole item."""
    return tuple((0, int(n)) for n in shape)


def shape_of(box: Box) -> tuple[int, ...]:
    """Shape of a box."""
    return tuple(stop - start for start, stop in box)


def slices(box: Box, within: Box | None = None) -> tuple[slice, ...]:
    """Slices of a box in an item, or in the box ``within``, which contains it."""
    if within is None:
        return tuple(slice(start, stop) for start, stop in box)
    return tuple(slice(a - c, b - c) for (a, b), (c, _) in zip(box, within, strict=True))


def meet(one: Box, other: Box) -> Box | None:
    """Intersection of two boxes; ``None`` if it is empty."""
    common = tuple((max(a, c), min(b, d)) for (a, b), (c, d) in zip(one, other, strict=True))
    return common if all(a < b for a, b in common) else None


def grid_of(shape: Sequence[int], slab: Sequence[int]) -> tuple[int, ...]:
    """Number of slabs along each axis."""
    return tuple(-(-n // width) for n, width in zip(shape, slab, strict=True))


def slab_box(shape: Sequence[int], slab: Sequence[int], number: int) -> Box:
    """The box of slab ``number`` of an item."""
    at: list[int] = []
    for count in reversed(grid_of(shape, slab)):
        number, place = divmod(number, count)
        at.insert(0, place)
    return tuple(
        (i * width, min((i + 1) * width, n)) for i, width, n in zip(at, slab, shape, strict=True)
    )


def overlapping(shape: Sequence[int], slab: Sequence[int], box: Box) -> list[int]:
    """Ascending numbers of the slabs that overlap a box."""
    grid = grid_of(shape, slab)
    spans = [
        range(start // width, -(-stop // width))
        for (start, stop), width in zip(box, slab, strict=True)
    ]
    steps = [math.prod(grid[axis + 1 :]) for axis in range(len(grid))]
    return [sum(i * s for i, s in zip(at, steps, strict=True)) for at in product(*spans)]


def choose_slab(shape: Sequence[int], itemsize: int, aim: int) -> tuple[int, ...]:
    """Choose the shape of the slabs for a large item: about ``aim`` bytes, at most twice as many.

    The first axis (variables) and the last (longitudes) are cut, into parts of equal length if
    possible, so that the parts of 2, 3 or 4 model ranks along either axis consist of whole slabs.
    The axes between them are cut only if that is not enough.

    Parameters
    ----------
    shape
        Shape of an item.
    itemsize
        Size of a value in bytes.
    aim
        Target size of a slab, in bytes.
    """
    slab = [int(n) for n in shape]
    if not slab or math.prod(slab) * itemsize <= 2 * aim:
        return tuple(slab)
    first, last = 0, len(slab) - 1
    ends = {first, last}
    for axis in range(1, last):
        while math.prod(n for i, n in enumerate(slab) if i not in ends) * itemsize > 2 * aim:
            if slab[axis] == 1:
                break
            slab[axis] = -(-slab[axis] // 2)
    between = math.prod(n for i, n in enumerate(slab) if i not in ends) * itemsize
    best, chosen = math.inf, (slab[first], slab[last])
    for i in _counts(slab[first]):
        for j in _counts(slab[last]) if last else [1]:
            rows, columns = -(-slab[first] // i), -(-slab[last] // j) if last else 1
            size = between * rows * columns
            score = abs(math.log2(size / aim)) - 0.5 * _aligned(slab[first], i)
            score -= 0.5 * _aligned(slab[last], j) if last else 0
            score += 100 * (size > 2 * aim)
            if score < best:
                best, chosen = score, (rows, columns)
    slab[first] = chosen[0]
    if last:
        slab[last] = chosen[1]
    return tuple(slab)


def _counts(length: int) -> list[int]:
    """Candidate numbers of parts to cut an axis into: its divisors, and powers of two."""
    found = {
        k for d in range(1, math.isqrt(length) + 1) if length % d == 0 for k in (d, length // d)
    }
    return sorted(found | {2**p for p in range(length.bit_length()) if 2**p <= length})


def _aligned(length: int, count: int) -> int:
    """How many of the :data:`SPLITS` cut an axis into equal parts that consist of whole slabs."""
    if count == length:
        return len(SPLITS)
    if length % count:
        return 0
    return sum(count % m == 0 for m in SPLITS)
