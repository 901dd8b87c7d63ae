"""Where the time of a training step goes: a timer that listens to its parts.

A part's time is its own: what another one takes within it is not counted twice.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import get_args

import torch

from hpcsamp.watchdog import Part

#: Phases in the order of a step: its parts, and what is in none of them.
NAMES = (*get_args(Part), "other")


class Phases:
    """Seconds by phase.

    Parameters
    ----------
    device
        Where it computes; a GPU is waited for at each end of a phase.
    """

    def __init__(self, device: torch.device) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._within: list[float] = []
        self._wait = torch.cuda.synchronize if device.type == "cuda" else None

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add the block's own time to a phase."""
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
