"""Rules for operations on sampled parameters; a rule is one line in its file.

A rule is called like the operation, with the fold of the pass first. It returns folded tensors,
sampled values if there are no items, or ``NotImplemented`` for unsupported arguments.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hpcsamp.weights.folding.rules import (
    attention,
    embedding,
    norms,
    products,
    recurrent,
    shapes,
)

RULES: dict[Any, Callable[..., Any]] = {
    **attention.RULES,
    **embedding.RULES,
    **norms.RULES,
    **products.RULES,
    **recurrent.RULES,
    **shapes.RULES,
}
