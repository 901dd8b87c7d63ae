"""Rules for operations on sampled parameters; each is an entry of the table ``RULES`` in its file.

A rule is called with the :class:`~hpcsamp.weights.folding.fold.Fold` of the current pass, followed
by the arguments of the operation. It returns folded tensors,
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
