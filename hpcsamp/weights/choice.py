"""How many samples to evaluate at once, and by which strategy: found by a short measurement.

A loop over single samples needs the least memory and suits large networks on CPUs; small networks
and GPUs want many samples in each operation. The choice changes the order of float sums and nothing
else, so it is left to a clock. Ranks agree on every time, and so on the choice.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

#: A larger chunk must save this part of the time of the best one so far. Two in a row that do not,
#: or one that loses as much, end the search.
CLEARLY = 0.05
#: Seconds for which two candidates take turns, unless a few turns take longer.
BUDGET = 0.03
#: Turns of two candidates at most.
MOST_TURNS = 25
#: Seconds of two passes that are long: they are compared once or twice.
LONG = 0.1
#: Bytes of activations of a chunk on a CPU, whose caches are not helped by more.
CPU_ACTIVATIONS = 256 << 20


@dataclass(frozen=True)
class Passes:
    """How samples are evaluated.

    Attributes
    ----------
    chunk
        Samples of a pass.
    strategy
        ``"loop"``, ``"vmap"`` or ``"batched"``; ``"auto"`` for the first of batched, vmap and loop
        that the module allows.
    """

    chunk: int = 1
    strategy: str = "auto"

    def __str__(self) -> str:
        if self.chunk == 1:
            return "one sample at a time"
        return f"{self.chunk} samples at once, {self.strategy}"


Run = Callable[[], object]
"""A pass forwards, and backwards in training, over one chunk of this rank."""
Clock = Callable[[], float]
"""Seconds since some time."""


def choose(
    run_of: Callable[[Passes], Run | None],
    most: int,
    activations: float,
    room: float,
    *,
    strategies: tuple[str, ...] = ("batched", "vmap"),
    largest: Callable[[float], float] = float,
    clock: Clock = time.perf_counter,
) -> tuple[Passes, float]:
    """The fastest way to evaluate samples, the same on all ranks.

    Collective over those ranks that ``largest`` asks.

    Parameters
    ----------
    run_of
        Makes a pass over a chunk, or returns None if the module does not allow the strategy.
    most
        Largest number of samples that a rank has.
    activations
        Bytes that a pass of one sample keeps for its backward pass.
    room
        Bytes that activations of a chunk may take.
    strategies
        In the order in which they are tried; the first one that the module allows is measured.
    largest
        Returns the largest of a number over the ranks.
    clock
        Returns seconds, see :func:`clock_for`.

    Returns
    -------
    tuple
        The choice, and seconds for all samples of the rank that takes longest.
    """
    best, one = Passes(1, "loop"), run_of(Passes(1, "loop"))
    assert one is not None, "a module that not even a loop can evaluate"
    timed(one, clock)  # the first pass pays for warming up
    seconds = largest(timed(one, clock))
    best_run, cost, doubts = one, seconds * most, 0
    for chunk in _sizes(most):
        if largest(activations) * chunk > room:
            break
        found = None
        for strategy in strategies:
            found = run_of(Passes(chunk, strategy))
            if largest(0.0 if found is not None else 1.0) == 0.0:
                break
            found = None
        if found is None:
            break
        count, before = math.ceil(most / chunk), math.ceil(most / best.chunk)
        new, old = _turns(found, best_run, largest, clock)
        ratio = new * count / (old * before)
        if ratio <= 1 - CLEARLY:
            best, best_run, cost, doubts = Passes(chunk, strategy), found, new * count, 0
        elif ratio > 1 + CLEARLY or doubts:
            break
        else:
            doubts += 1  # what a chunk of two just makes up for may pay with four
    return best, cost


def _sizes(most: int) -> Iterator[int]:
    """2, 4, 8, ... samples, less where as many passes do with chunks of nearly equal size."""
    chunk, last = 2, 1
    while last < most:
        size = math.ceil(most / math.ceil(most / min(chunk, most)))
        if size > last:
            yield size
            last = size
        chunk *= 2


def _turns(
    new: Run, old: Run, largest: Callable[[float], float], clock: Clock
) -> tuple[float, float]:
    """Least seconds of two passes that take turns, on the rank where they take longest.

    The number of turns is agreed: a rank may wait for others within a pass.
    """
    times = [(timed(new, clock), timed(old, clock))]
    first = max(largest(sum(times[0])), 1e-9)
    least = 4 if first < LONG else 1 if first < 1 else 0
    more = min(max(least, int(BUDGET / first)), MOST_TURNS)
    times += [(timed(new, clock), timed(old, clock)) for _ in range(more)]
    return largest(min(t for t, _ in times)), largest(min(t for _, t in times))


def clock_for(device: torch.device) -> Clock:
    """A clock of the compute of a pass on a device.

    Where one thread computes it is that thread's own time, as other processes may take turns on its
    core.
    """
    alone = device.type == "cpu" and torch.get_num_threads() == 1
    return time.thread_time if alone else time.perf_counter


def timed(run: Run, clock: Clock = time.perf_counter) -> float:
    """Seconds of a pass, until the device is done with it."""
    began = clock()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return clock() - began


def kept_bytes(run: Run, held: frozenset[int]) -> int:
    """Bytes of tensors that a pass keeps for its backward pass, but for some storages.

    Parameters
    ----------
    run
        A forward pass.
    held
        ``data_ptr`` of storages that are there anyway, such as those of parameters.
    """
    seen: dict[int, int] = {}

    def keep(tensor: Tensor) -> Any:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in held:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        run()
    return sum(seen.values())


def room_on(device: torch.device) -> float:
    """Bytes that activations of a chunk may take on a device."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] / 2
    return CPU_ACTIVATIONS
