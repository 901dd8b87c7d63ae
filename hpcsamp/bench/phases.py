"""Where the time of a training step goes: timers put around the parts of a trainer from outside.

A timer's time is its own: what another one measures within it is not counted twice. Nothing is in
the package's way while nobody measures.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch

#: Phases in the order of a step.
NAMES = (
    "feed", "augment", "draw", "forward", "backward", "penalty", "agreement", "exchange",
    "optimiser", "other",
)  # fmt: skip
_EXCHANGES = (
    "sum_", "max_", "gather", "gather_", "sum_gradient_", "scatter_sum", "total", "tell",
)  # fmt: skip


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

    def around(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, timed."""

        @wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.timed(name):
                return function(*args, **kwargs)

        return timed

    @contextmanager
    def watching(self, trainer: Any) -> Iterator[None]:
        """Within the block, the parts of a :class:`~hpcsamp.training.loop.Trainer` are timed."""
        from hpcsamp.training.agreement import Agreement

        places: list[tuple[str, Any, str]] = [
            ("augment", trainer, "_augmented"),
            ("forward", trainer.method, "forward"),
            ("draw", trainer.method, "draw"),
            ("penalty", trainer.method, "penalty"),
            ("optimiser", trainer.optimizer, "step"),
            ("optimiser", trainer.optimizer, "zero_grad"),
            ("agreement", Agreement, "__init__"),
            ("agreement", Agreement, "end"),
            ("backward", torch.Tensor, "backward"),
            *(("exchange", trainer.collectives, name) for name in _EXCHANGES),
        ]
        before = []
        for phase, thing, attribute in places:
            if hasattr(thing, attribute):
                before.append((thing, attribute, vars(thing).get(attribute)))
                setattr(thing, attribute, self.around(phase, getattr(thing, attribute)))
        accumulating = trainer.method.accumulating

        @contextmanager
        def accumulating_timed() -> Iterator[Any]:
            with accumulating() as accumulator:
                accumulator.backward = self.around("backward", accumulator.backward)
                yield accumulator

        trainer.method.accumulating = accumulating_timed
        try:
            yield
        finally:
            del trainer.method.accumulating
            for thing, attribute, own in reversed(before):
                if own is None:
                    delattr(thing, attribute)
                else:
                    setattr(thing, attribute, own)
