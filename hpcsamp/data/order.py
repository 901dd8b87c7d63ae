"""Shuffling: the order of items is a function of (seed, epoch), the same on any grid of ranks.

``"global"``: one permutation of all items per epoch. ``"pool"``: the chunks of the files are
permuted and divided into K canonical streams, and items are shuffled within pools of W successive
chunks of a stream, so that only ``K * W`` chunks are in use at a time. The global batch of a step
is the concatenation of ``batch / K`` items of each stream; data group ``d`` of ``D`` takes the
``d``-th contiguous part of it. The order depends on neither P nor D, it can be entered at any step,
and its only state is (seed, epoch, step).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from hpcsamp.errors import UsageError
from hpcsamp.grid import share
from hpcsamp.names import Shuffle
from hpcsamp.streams import Purpose, numpy_generator

Tail = Literal["drop", "mask"]

STREAMS = 16
"""Largest number of streams of the pool shuffle; results depend on it, so it is fixed."""


KEPT = 128
"""Number of cached steps; the prefetch thread and the main thread need the same ones."""


def stream_count(batch: int) -> int:
    """Number of streams of the pool shuffle: the largest divisor of the batch and of STREAMS."""
    return math.gcd(batch, STREAMS)


def check_batch(batch: int, data_groups: int) -> None:
    """Refuse a batch that cannot be divided evenly among the data groups.

    Raises
    ------
    UsageError
        If the number of items is not a multiple of the number of data groups.
    """
    if batch < 1 or batch % data_groups:
        raise UsageError(
            f"a batch of {batch} items cannot be divided evenly among D = {data_groups} data "
            f"groups; choose a multiple of {data_groups}"
        )


@dataclass(frozen=True)
class GlobalBatch:
    """The global batch of one step.

    Attributes
    ----------
    items
        Positions in the split, int64 of shape ``(batch,)``.
    weight
        1 for items and 0 for padding, float64 of shape ``(batch,)``.
    """

    items: np.ndarray
    weight: np.ndarray

    @property
    def count(self) -> int:
        """Number of items in the step, without padding."""
        return int(self.weight.sum())

    def part(self, index: int, parts: int) -> GlobalBatch:
        """Return the part of the step for data group ``index`` of ``parts`` data groups."""
        own = share(len(self.items), parts, index)
        return GlobalBatch(self.items[own.start : own.stop], self.weight[own.start : own.stop])


@dataclass
class Order:
    """The order of the items of a split, for all epochs.

    Parameters
    ----------
    count
        Number of items in the split.
    batch
        Number of items of a step over all data groups.
    seed
        The run's seed.
    shuffle
        ``"global"``, ``"pool"`` or ``"none"``.
    tail
        ``"drop"``: every step is full, and up to ``batch - 1`` items are left out of an epoch.
        ``"mask"``: every item is used once, and the last step is padded with items of weight 0.
    chunks
        Number of items in each chunk of the files, in item order (``"pool"`` only).
    pool
        Number of chunks in a pool (W).

    Raises
    ------
    UsageError
        If there are too few items for a full batch, or the chunks do not hold ``count`` items.
    """

    count: int
    batch: int
    seed: int = 1
    shuffle: Shuffle = "global"
    tail: Tail = "drop"
    chunks: np.ndarray | None = None
    pool: int = 16
    _epochs: dict[int, Epoch] = field(default_factory=dict, repr=False)
    _steps: dict[tuple[int, int], GlobalBatch] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if self.count < 1 or (self.tail == "drop" and self.steps < 1):
            raise UsageError(
                f"a batch of {self.batch} items cannot be drawn from {self.count} items; "
                f"choose a batch of at most {self.count}"
            )
        if self.shuffle == "pool" and (self.chunks is None or self.chunks.sum() != self.count):
            total = None if self.chunks is None else int(self.chunks.sum())
            raise UsageError(f"the chunks hold {total} items, but the split has {self.count}")

    @property
    def streams(self) -> int:
        """Number of streams (K)."""
        return stream_count(self.batch) if self.shuffle == "pool" else 1

    @property
    def steps(self) -> int:
        """Number of steps in an epoch."""
        each = self.batch // self.streams
        if self.tail == "drop":
            return self.count // self.streams // each
        return math.ceil(math.ceil(self.count / self.streams) / each)

    def epoch(self, number: int) -> Epoch:
        """The order of one epoch (the last two requested are cached)."""
        if number not in self._epochs:
            kind = PoolEpoch if self.shuffle == "pool" else Epoch
            while len(self._epochs) > 1:
                del self._epochs[next(iter(self._epochs))]
            self._epochs[number] = kind(self, number)
        return self._epochs[number]

    def step(self, epoch: int, step: int) -> GlobalBatch:
        """The global batch of any step; earlier steps are not needed (the last few are cached).

        Raises
        ------
        UsageError
            If the step is outside the epoch.
        """
        if not 0 <= step < self.steps:
            raise UsageError(f"step {step} is outside an epoch of {self.steps} steps")
        kept = self._steps.get((epoch, step))
        if kept is not None:
            return kept
        order = self.epoch(epoch)
        each = self.batch // self.streams
        items, weights = [], []
        for s in range(self.streams):
            own = order.stream(s, step * each, (step + 1) * each)
            weight = np.zeros(each)
            weight[: len(own)] = 1
            if len(own) < each:  # padding repeats the first items of the stream
                first = order.stream(s, 0, each)
                own = np.concatenate([own, np.resize(first, each - len(own))])
            items.append(own)
            weights.append(weight)
        batch = GlobalBatch(np.concatenate(items), np.concatenate(weights))
        if len(self._steps) >= KEPT:
            self._steps.pop(next(iter(self._steps)), None)
        self._steps[epoch, step] = batch
        return batch


class Epoch:
    """One epoch with a single stream: a permutation of all items, or their original order."""

    def __init__(self, order: Order, number: int):
        if order.shuffle == "none":
            self._items = np.arange(order.count)
        else:
            generator = numpy_generator(order.seed, Purpose.ORDER, number)
            self._items = generator.permutation(order.count)

    def stream(self, index: int, start: int, stop: int) -> np.ndarray:
        """Items ``start .. stop - 1`` of a stream; fewer at its end."""
        return self._items[start:stop]


class PoolEpoch(Epoch):
    """One epoch of the pool shuffle. A pool is drawn when it is first requested."""

    def __init__(self, order: Order, number: int):
        if order.chunks is None:
            raise UsageError("the pool shuffle needs the chunks of the files")
        self.order, self.number = order, number
        sizes = np.asarray(order.chunks, np.int64)
        generator = numpy_generator(order.seed, Purpose.ORDER, number, 0)
        permuted = generator.permutation(len(sizes))
        first = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        self._first = first[permuted]  # first item of each chunk, in the order of the epoch
        self._end = np.cumsum(sizes[permuted])
        self._begin = self._end - sizes[permuted]
        self._pools: dict[int, tuple[int, int, np.ndarray]] = {}

    def bounds(self, index: int) -> tuple[int, int]:
        """Begin and end of a stream in the permuted items; lengths differ by at most 1."""
        own = share(self.order.count, self.order.streams, index)
        return own.start, own.stop

    def stream(self, index: int, start: int, stop: int) -> np.ndarray:
        """Items ``start .. stop - 1`` of a stream; fewer at its end."""
        low, high = self.bounds(index)
        begin, end = low + start, min(low + stop, high)
        pieces = []
        while begin < end:
            pool_begin, pool_end, items = self._pool(index, begin)
            upto = min(end, pool_end)
            pieces.append(items[begin - pool_begin : upto - pool_begin])
            begin = upto
        return np.concatenate(pieces) if pieces else np.empty(0, np.int64)

    def _pool(self, index: int, position: int) -> tuple[int, int, np.ndarray]:
        """The pool of a stream that contains a position: its begin, end and items."""
        kept = self._pools.get(index)
        if kept is not None and kept[0] <= position < kept[1]:
            return kept
        low, high = self.bounds(index)
        width = self.order.pool
        first = int(np.searchsorted(self._end, low, side="right"))  # first chunk of the stream
        chunk = int(np.searchsorted(self._end, position, side="right"))
        number = (chunk - first) // width
        chunks = slice(first + number * width, first + (number + 1) * width)
        begins = np.maximum(self._begin[chunks], low)
        ends = np.minimum(self._end[chunks], high)
        lengths = np.maximum(ends - begins, 0)
        starts = self._first[chunks] + begins - self._begin[chunks]
        # arange(start, start + length) of each chunk, concatenated
        offsets = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        items = np.repeat(starts, lengths) + offsets
        generator = numpy_generator(self.order.seed, Purpose.ORDER, self.number, 1, index, number)
        begin = int(begins[0])
        self._pools[index] = (begin, begin + len(items), generator.permutation(items))
        return self._pools[index]
