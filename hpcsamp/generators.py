"""Save, seed and monitor the global random generators of torch, NumPy and Python.

No result may depend on them. They are seeded for code that cannot draw from anything else
(initialisers), and watched to find code whose results would depend on the grid.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Generators:
    """States of all global generators at one time.

    Attributes
    ----------
    states
        States by the name of the generator.
    """

    states: dict[str, Any]

    @classmethod
    def now(cls) -> Generators:
        """Return the current states."""
        states = {
            "torch's global generator": torch.get_rng_state(),
            "NumPy's global generator": np.random.get_state(),
            "Python's global generator": random.getstate(),
        }
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            states["torch's global generator of the GPU"] = torch.cuda.get_rng_state()
        return cls(states)

    def put_back(self) -> None:
        """Restore these states."""
        cpu, numpy, python, *gpu = self.states.values()
        torch.set_rng_state(cpu)
        np.random.set_state(numpy)
        random.setstate(python)
        if gpu:
            torch.cuda.set_rng_state(gpu[0])

    def moved(self, later: Generators) -> list[str]:
        """Return the names of the generators that were used between two states."""
        return [
            name
            for name, state in self.states.items()
            if name in later.states and _content(state) != _content(later.states[name])
        ]


def _content(state: Any) -> Any:
    if isinstance(state, Tensor):
        return zlib.crc32(state.numpy().tobytes())
    name, keys, *rest = state
    return (name, zlib.crc32(keys.tobytes()), rest) if isinstance(keys, np.ndarray) else state


@contextmanager
def lent(seed: int) -> Iterator[None]:
    """Seed the global generators within the block and restore their states afterwards.

    ``seed`` is a number of 32 bits.
    """
    before = Generators.now()
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)
    try:
        yield
    finally:
        before.put_back()
