"""Parts of tensors: what a model rank holds of a whole one, and where that lies in it.

Pure functions of shapes. A part is a box of the whole tensor; weights, gradients, their noise, and
slabs of items are all addressed by it, so that each can be drawn, read or written by its own rank.
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
"""First index and the one after the last."""


@dataclass(frozen=True)
class Part:
    """A box of a whole tensor.

    Attributes
    ----------
    shape
        Of the whole tensor.
    box
        ``(start, stop)`` on each of its axes; an interval may be empty.

    Raises
    ------
    ValueError
        For a box that does not lie in the shape, with both.
    """

    shape: tuple[int, ...]
    box: tuple[Interval, ...]

    def __post_init__(self) -> None:
        inside = all(0 <= a <= b <= n for (a, b), n in zip(self.box, self.shape, strict=False))
        if len(self.box) != len(self.shape) or not inside:
            raise ValueError(f"the box {self.box} is no part of a tensor of shape {self.shape}")

    @classmethod
    def whole(cls, shape: Sequence[int]) -> Part:
        """All of a tensor."""
        return cls(tuple(shape), tuple((0, n) for n in shape))

    @property
    def local(self) -> tuple[int, ...]:
        """Shape of what is held."""
        return tuple(b - a for a, b in self.box)

    @property
    def size(self) -> int:
        """Number of values held."""
        return math.prod(self.local)

    @property
    def slices(self) -> tuple[slice, ...]:
        """An index for the whole tensor."""
        return tuple(slice(a, b) for a, b in self.box)

    @property
    def _index(self) -> tuple[Any, ...]:
        return (..., *self.slices)

    @property
    def is_whole(self) -> bool:
        """Whether nothing is missing."""
        return self.local == self.shape

    def runs(self) -> list[Interval]:
        """Neighbours in the flattened whole: ``(start, stop)`` of each run, in order.

        The values of the runs, one after the other, are those of the flattened part.
        """
        return list(self._runs())

    def _runs(self) -> Iterator[Interval]:
        if self.size == 0:
            return
        # axes from `inner` on are whole: together with the axis before them they are one run
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
        """Shape ``(..., *shape)`` of the whole of which ``(..., *local)`` are held."""
        return (*shape[: len(shape) - len(self.shape)], *self.shape)

    def local_of(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Shape ``(..., *local)`` of what is held of ``(..., *shape)``."""
        return (*shape[: len(shape) - len(self.shape)], *self.local)

    def cut(self, whole: Tensor) -> Tensor:
        """``(..., *local)`` this part of ``(..., *shape)`` values, as a view.

        Raises
        ------
        ValueError
            For a tensor of another shape, with both.
        """
        self._check(whole, self.shape, "whole")
        return whole[self._index]

    def put(self, whole: Tensor, part: Tensor) -> None:
        """Write ``(..., *local)`` values at their place in ``(..., *shape)``, in place.

        Raises
        ------
        ValueError
            For tensors of other shapes, with both.
        """
        self._check(whole, self.shape, "whole")
        self._check(part, self.local, "part")
        whole[self._index] = part

    @staticmethod
    def _check(x: Tensor, shape: tuple[int, ...], word: str) -> None:
        if tuple(x.shape[max(0, x.dim() - len(shape)) :]) != shape:
            raise ValueError(
                f"the {word} tensor is to have the shape (..., {', '.join(map(str, shape))}), got "
                f"{tuple(x.shape)}"
            )


@dataclass(frozen=True)
class Merged(Part):
    """A box of a tensor whose first axes are held as one: ``(k n, ...)`` for ``(k, n, ...)``.

    So a rank can have its own rows of each of k blocks, such as queries, keys and values.

    Attributes
    ----------
    merged
        How many axes are held as one; -1: all of them.
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
        """Shape of what is held."""
        return self._held(self._box)

    @property
    def is_whole(self) -> bool:
        """Whether nothing is missing."""
        return self._box == self.shape

    def whole_of(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Shape of the whole of which ``(..., *local)`` are held, its axes merged as well."""
        whole = self._held(self.shape)
        return (*shape[: len(shape) - len(whole)], *whole)

    def local_of(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Shape ``(..., *local)`` of what is held of such a whole."""
        own = self.local
        return (*shape[: len(shape) - len(own)], *own)

    def cut(self, whole: Tensor) -> Tensor:
        """``(..., *local)`` this part of the whole; see :meth:`Part.cut`. A copy, if need be."""
        return self._apart(whole)[self._index].reshape(self.local_of(whole.shape))

    def put(self, whole: Tensor, part: Tensor) -> None:
        """Write ``(..., *local)`` values at their places in the whole, in place."""
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
    """A box of a tensor that is held flattened: ``(size,)`` numbers of ``(prod(shape),)``.

    What reads and writes values sees one axis, in which the part is :meth:`Part.runs`.
    """

    merged: int = -1


def bounds(length: int, parts: int, unit: int = 1) -> list[Interval]:
    """Nearly equal intervals of an axis, in order.

    Parameters
    ----------
    length
        Of the axis, a multiple of ``unit``.
    parts
        How many intervals.
    unit
        Neighbours that are not parted, such as the numbers of one field.

    Raises
    ------
    ValueError
        If the length is no multiple of the unit, with both.
    """
    if length % unit:
        raise ValueError(f"an axis of {length} is not made of units of {unit}")
    shares = (share(length // unit, parts, i) for i in range(parts))
    return [(s.start * unit, s.stop * unit) for s in shares]


def within(outer: Interval, parts: int, index: int) -> Interval:
    """The ``index``-th of nearly equal intervals of an interval."""
    own = share(outer[1] - outer[0], parts, index)
    return outer[0] + own.start, outer[0] + own.stop
