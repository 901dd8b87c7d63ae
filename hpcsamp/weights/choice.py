"""Choose the number of samples per pass and the strategy, by a short measurement.

A loop over single samples needs the least memory and suits large networks on CPUs; small networks
and GPUs are faster with many samples in each operation. The choice only changes the order of float
sums, so it may depend on timings. All ranks use the same times, and so make the same choice.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

#: A larger chunk must save this fraction of the best time so far. The search ends after two chunks
#: in a row that do not, or one that is slower by this fraction.
CLEARLY = 0.05
#: Seconds for which two candidates are timed in turn, unless a few turns take longer.
BUDGET = 0.03
#: Largest number of turns of two candidates.
MOST_TURNS = 25
#: Seconds above which two passes count as long. Long passes are compared only once or twice, and a
#: larger chunk is tried only if the last one was clearly faster: arithmetic takes their time.
LONG = 0.1
#: Largest size in bytes of a chunk's activations on a CPU, beyond which caches no longer help.
CPU_ACTIVATIONS = 256 << 20


@dataclass(frozen=True)
class Passes:
    """The number of samples per pass, and the strategy that evaluates them.

    Attributes
    ----------
    chunk
        Number of samples per pass.
    strategy
        ``"loop"``, ``"vmap"`` or ``"batched"``; ``"auto"`` for the first of batched, vmap and loop
        that the module supports.
    """

    chunk: int = 1
    strategy: str = "auto"

    def __str__(self) -> str:
        if self.chunk == 1:
            return "one sample at a time"
        return f"{self.chunk} samples at once, {self.strategy}"


Run = Callable[[], object]
"""A forward pass, with backward in training, over one chunk of this rank."""
Clock = Callable[[], float]
"""Clock in seconds, with an arbitrary zero."""


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
    """Return the fastest way to evaluate samples, the same on all ranks.

    Collective over the ranks that ``largest`` communicates with.

    Parameters
    ----------
    run_of
        Returns a pass over a chunk, or None if the module does not support the strategy.
    most
        Largest number of samples of any rank.
    activations
        Bytes that a pass of one sample keeps for its backward pass.
    room
        Bytes available for the activations of a chunk.
    strategies
        Strategies in the order in which they are tried; the first supported one is measured.
    largest
        Returns the largest value of a number over the ranks.
    clock
        Returns seconds, see :func:`clock_for`.

    Returns
    -------
    tuple
        The choice, and the seconds that the slowest rank needs for all its samples.
    """
    best, one = Passes(1, "loop"), run_of(Passes(1, "loop"))
    assert one is not None, "a module that not even a loop can evaluate"
    timed(one, clock)  # warm up
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
        elif ratio > 1 + CLEARLY or doubts or new + old >= LONG:
            break
        else:
            doubts += 1  # where a chunk of two only breaks even, one of four may be faster
    return best, cost


def _sizes(most: int) -> Iterator[int]:
    """Chunk sizes 2, 4, 8, ..., reduced if nearly equal chunks need as many passes."""
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
    """Shortest times in seconds of two alternating passes, each on the rank where it takes longest.

    All ranks make the same number of turns, because a rank may wait for others within a pass.
    """
    times = [(timed(new, clock), timed(old, clock))]
    first = max(largest(sum(times[0])), 1e-9)
    least = 4 if first < LONG else 1 if first < 1 else 0
    more = min(max(least, int(BUDGET / first)), MOST_TURNS)
    times += [(timed(new, clock), timed(old, clock)) for _ in range(more)]
    return largest(min(t for t, _ in times)), largest(min(t for _, t in times))


def clock_for(device: torch.device) -> Clock:
    """Return a clock that measures the compute time of a pass on a device.

    If a single thread computes, the clock is that thread's CPU time, because other processes may
    use its core.
    """
    alone = device.type == "cpu" and torch.get_num_threads() == 1
    return time.thread_time if alone else time.perf_counter


def timed(run: Run, clock: Clock = time.perf_counter) -> float:
    """Time a pass in seconds, until the device has finished."""
    # a process that uses the CPU by choice must not begin to use a GPU here
    wait = torch.cuda.synchronize if torch.cuda.is_initialized() else lambda: None
    wait()
    began = clock()
    run()
    wait()
    return clock() - began


def kept_bytes(run: Run, held: frozenset[int]) -> int:
    """Number of bytes that a pass keeps for its backward pass, without the storages ``held``.

    Parameters
    ----------
    run
        A forward pass.
    held
        ``data_ptr`` of storages that exist anyway, such as those of parameters.
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
    """Number of bytes available for the activations of a chunk on a device."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] / 2
    return CPU_ACTIVATIONS
