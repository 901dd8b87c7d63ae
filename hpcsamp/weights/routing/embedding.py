"""Routes for embeddings with a padding row, whose gradient vmap gets wrong, or sparse gradients.

The gradient of the padding row is wrong if ids differ between samples (torch 2.13); here that row
is left out of the graph. Weights of samples are parts of flat vectors, so gradients are dense.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from hpcsamp.weights.embedding import frozen_row
from hpcsamp.weights.routing.now import Now, Route


def embedding(
    now: Now,
    ids: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    *others: Any,
    **named: Any,
) -> Tensor:
    """Look up rows of a table."""
    if padding_idx is not None:
        weight, padding_idx = frozen_row(weight, padding_idx), None
    return F.embedding(ids, weight, padding_idx, *others, **named)


def _dense(function: Any, at: int) -> Route:
    """Return a route to ``function`` that drops its argument ``sparse``, at the given position."""

    def route(now: Now, *args: Any, **named: Any) -> Any:
        if not (named.get("sparse") or (len(args) > at and args[at])):
            return NotImplemented
        named.pop("sparse", None)
        args = (*args[:at], *([False] if len(args) > at else []), *args[at + 1 :])
        with now.again():
            return function(*args, **named)

    return route


ROUTES: dict[Any, Route] = {
    F.embedding: _dense(F.embedding, 6),
    F.embedding_bag: _dense(F.embedding_bag, 7),
}
OF_VMAP: dict[Any, Route] = {F.embedding: embedding}
