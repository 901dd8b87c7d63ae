"""Parts of tensors: boxes that a model rank holds, and their positions in the whole tensor.

Pure functions of shapes. A part is a box of the whole tensor; weights, gradients, their noise, and
slabs of items are all addressed in this way, so each can be drawn, read or written by its own rank.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from hpcsamp.grid.plan import share

Interval = tuple[int, int]
"""Interval of indices: the first index, and the index after the last."""


@dataclass(frozen=True)
class Part:
    """A box of a whole tensor.

    Attributes
    ----------
    shape
        Shape of the whole tensor.
    box
        ``(start, stop)`` on each axis; intervals may be empty.

    Raises
    ------
    ValueError
        If the box does not lie within the shape; the message names both.
    """

    shape: tuple[int, ...]
    box: tuple[Interval, ...]

    def __post_init__(self) -> None:
        inside = all(0 <= a <= b <= n for (a, b), n in zip(self.box, self.shape, strict=False))
        if len(self.box) != len(self.shape) or not inside:
            raise ValueError(f"the box {self.box} is not part of a tensor of shape {self.shape}")

    @classmethod
    def whole(cls, shape: Sequence[int]) -> Part:
        """Return the part that is the whole tensor."""
        return cls(tuple(shape), tuple((0, n) for n in shape))

    @property
    def local(self) -> tuple[int, ...]:
        """Shape of the part."""
        return tuple(b - a for a, b in self.box)

    @property
    def size(self) -> int:
        """Number of values in the part."""
        return math.prod(self.local)

    @property
    def slices(self) -> tuple[slice, ...]:
        """Index of the part in the whole tensor."""
        return tuple(slice(a, b) for a, b in self.box)

    @property
    def _index(self) -> tuple[Any, ...]:
        return (..., *self.slices)

    @property
    def is_whole(self) -> bool:
        """Whether the part is the whole tensor."""
        return self.local == self.shape

    def runs(self) -> list[Interval]:
        """``(start, stop)`` of each contiguous run of the part in the flattened whole, in order.

        The concatenated values of the runs are the flattened part.
        """
        return list(self._runs())

    def _runs(self) -> Iterator[Interval]:
        if self.size == 0:
            return
        # axes from `inner` on are whole, so they form one run with the axis before them
        inner = len(self.shape)
        while inner and self.box[inner - 1] == (0, self.shape[inner - 1]):
            inner -= 1
        strides = [math.prod(self.shape[i + 1 :]) for i in range(len(self.shape))]
        if inner == 0:
            yield 0, math.prod(self.shape)
            return
        (a, b), stride = self.box[inner - 1], strides[inner - 1]
        for index in itertools.product(*(range(*self.box[i]) for i in range(inner - 1))):
            before = sum(i * s for i, s in zip(index, strides, strict=False))
            yield before + a * stride, before + b * stride

    def whole_of(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Shape ``(..., *shape)`` of the whole for a part of shape ``(..., *local)``."""
        return (*shape[: len(shape) - len(self.shape)], *self.shape)

    def local_of(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Shape ``(..., *local)`` of the part for a whole of shape ``(..., *shape)``."""
        return (*shape[: len(shape) - len(self.shape)], *self.local)

    def cut(self, whole: Tensor) -> Tensor:
        """Return this part, ``(..., *local)``, of ``(..., *shape)`` values as a view.

        Raises
        ------
        ValueError
            If the tensor has another shape; the message names both.
        """
        self._check(whole, self.shape, "whole")
        return whole[self._index]

    def put(self, whole: Tensor, part: Tensor) -> None:
        """Write a part, ``(..., *local)``, to its position in ``(..., *shape)``, in place.

        Raises
        ------
        ValueError
            If a tensor has another shape; the message names both.
        """
        self._check(whole, self.shape, "whole")
        self._check(part, self.local, "part")
        whole[self._index] = part

    @staticmethod
    def _check(x: Tensor, shape: tuple[int, ...], word: str) -> None:
        if tuple(x.shape[max(0, x.dim() - len(shape)) :]) != shape:
            raise ValueError(
                f"the {word} tensor must have the shape (..., {', '.join(map(str, shape))}), got "
                f"{tuple(x.shape)}"
            )


@dataclass(frozen=True)
class Merged(Part):
    """Part of a tensor whose first two axes are flattened, ``(k, n, ...)`` to ``(k n, ...)``.

    With it, a rank can hold its own rows of each of k blocks, such as queries, keys and values.

    Attributes
    ----------
    merged
        Number of merged axes; -1 for all.
    """

    merged: int = 2

    def _held(self, lengths: Sequence[int]) -> tuple[int, ...]:
        n = len(lengths) if self.merged < 0 else self.merged
        return (math.prod(lengths[:n]), *lengths[n:])

    @property
    def _box(self) -> tuple[int, ...]:
        return tuple(b - a for a, b in self.box)

    @property
    def local(self) -> tuple[int, ...]:
        """Shape of the part."""
        return self._held(self._box)

    @property
    def is_whole(self) -> bool:
        """Whether the part is the whole tensor."""
        return self._box == self.shape

    def whole_of(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Shape of the whole, with merged axes, for a part of shape ``(..., *local)``."""
        whole = self._held(self.shape)
        return (*shape[: len(shape) - len(whole)], *whole)

    def local_of(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Shape ``(..., *local)`` of the part for a whole with merged axes."""
        own = self.local
        return (*shape[: len(shape) - len(own)], *own)

    def cut(self, whole: Tensor) -> Tensor:
        """Return this part of the whole, see :meth:`Part.cut`; a copy if a view is impossible."""
        return self._apart(whole)[self._index].reshape(self.local_of(whole.shape))

    def put(self, whole: Tensor, part: Tensor) -> None:
        """Write a part to its position in the whole, in place."""
        self._check(part, self.local, "part")
        apart = part.reshape(*part.shape[: part.dim() - len(self.local)], *self._box)
        self._apart(whole)[self._index] = apart

    def _apart(self, whole: Tensor) -> Tensor:
        held = self._held(self.shape)
        self._check(whole, held, "whole")
        n = len(self.shape) - len(held) + 1
        return whole.unflatten(-len(held), self.shape[:n])


@dataclass(frozen=True)
class Flattened(Merged):
    """A box of a tensor that is stored flattened: ``(size,)`` elements of ``(prod(shape),)``.

    Code that reads or writes the elements sees one axis, in which the part is :meth:`Part.runs`.
    """

    merged: int = -1


def bounds(length: int, parts: int, unit: int = 1) -> list[Interval]:
    """Divide an axis into nearly equal intervals, in order.

    Parameters
    ----------
    length
        Length of the axis, a multiple of ``unit``.
    parts
        Number of intervals.
    unit
        Length of units that must not be divided, such as the elements of one field.

    Raises
    ------
    ValueError
        If the length is not a multiple of the unit; the message names both.
    """
    if length % unit:
        raise ValueError(f"an axis of length {length} cannot be divided into units of {unit}")
    shares = (share(length // unit, parts, i) for i in range(parts))
    return [(s.start * unit, s.stop * unit) for s in shares]


def within(outer: Interval, parts: int, index: int) -> Interval:
    """Return the ``index``-th of ``parts`` nearly equal intervals of an interval."""
    own = share(outer[1] - outer[0], parts, index)
    return outer[0] + own.start, outer[0] + own.stop
