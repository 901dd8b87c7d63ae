"""Time the phases of a training step.

The time of a phase that runs within another one is not counted twice.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import get_args

import torch

from hpcsamp.watchdog import Part

#: Phases in the order of a step, and the rest of its time.
NAMES = (*get_args(Part), "other")


class Phases:
    """Seconds by phase.

    Parameters
    ----------
    device
        Device of the step; on a GPU, each phase ends with a synchronisation.
    """

    def __init__(self, device: torch.device) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._within: list[float] = []
        self._wait = torch.cuda.synchronize if device.type == "cuda" else None

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add the time of the block, without nested phases, to a phase."""
        if self._wait is not None:
            self._wait()
        self._within.append(0.0)
        began = time.perf_counter()
        try:
            yield
        finally:
            if self._wait is not None:
                self._wait()
            took = time.perf_counter() - began
            self.seconds[name] += took - self._within.pop()
            if self._within:
                self._within[-1] += took
