"""Strategies for evaluating a chunk of samples; each is one file and one line here."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from hpcsamp.weights.strategies import batched, loop, vmapped
from hpcsamp.weights.strategies.chunk import Chunk, NotPossibleError

Pass = Callable[[Chunk], Tensor]
"""Returns ``(k, B, ...)`` outputs of a chunk of samples."""

#: Variants of each strategy; the first one that agrees with the loop is used.
STRATEGIES: dict[str, tuple[Pass, ...]] = {
    "loop": (loop.run,),
    "vmap": (vmapped.run,),
    "batched": (batched.late, batched.early),
}

__all__ = ["STRATEGIES", "Chunk", "NotPossibleError", "Pass"]
