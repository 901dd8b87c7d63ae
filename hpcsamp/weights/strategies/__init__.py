"""Strategies for evaluating a chunk of samples; each is one file and one line here."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from hpcsamp.weights.strategies import batched, compiled, loop, vmapped
from hpcsamp.weights.strategies.chunk import Chunk, NotPossibleError

Pass = Callable[[Chunk], Tensor]
"""Returns ``(k, B, ...)`` outputs of a chunk of samples."""

#: Strategy that also differs from the loop for a single sample. It is not chosen by name.
COMPILED = "compiled"
#: Variants of each strategy; the first one that agrees with the loop is used.
STRATEGIES: dict[str, tuple[Pass, ...]] = {
    "loop": (loop.run,),
    "vmap": (vmapped.run,),
    "batched": (batched.late, batched.early),
    COMPILED: (compiled.at_once, compiled.in_turn),
}

__all__ = ["COMPILED", "STRATEGIES", "Chunk", "NotPossibleError", "Pass"]
