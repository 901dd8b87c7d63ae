"""Embeddings with a padding row, whose gradient vmap gets wrong.

It does so where ids differ between samples (torch 2.13); here that row is left out of the graph.
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
    """Rows of a table."""
    if padding_idx is not None:
        weight, padding_idx = frozen_row(weight, padding_idx), None
    return F.embedding(ids, weight, padding_idx, *others, **named)


OF_VMAP: dict[Any, Route] = {F.embedding: embedding}
