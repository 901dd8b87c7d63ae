"""Ways to evaluate a chunk of samples; one file each, one line each here."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from hpcsamp.weights.strategies import loop, vmapped
from hpcsamp.weights.strategies.chunk import Chunk, NotPossibleError

Strategy = Callable[[Chunk], Tensor]
"""``(k, B, ...)`` outputs of a chunk of samples."""

STRATEGIES: dict[str, Strategy] = {
    "loop": loop.run,
    "vmap": vmapped.run,
}

__all__ = ["STRATEGIES", "Chunk", "NotPossibleError", "Strategy"]
