"""Embeddings with sampled tables: one table of all samples, with ids shifted to a sample's rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from hpcsamp.weights.embedding import frozen_row
from hpcsamp.weights.folding.fold import Fold
from hpcsamp.weights.folding.sampled import Sampled
from hpcsamp.weights.strategies.chunk import NotPossibleError


def embedding(
    fold: Fold,
    ids: Any,
    weight: Any,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    *others: Any,
    **named: Any,
) -> Any:
    """Return ``W_s[ids]``."""
    if type(weight) is not Sampled or not isinstance(ids, Tensor):
        return NotImplemented
    if max_norm is not None:
        raise NotPossibleError("embedding with max_norm, which writes into its weights")
    table, k, size = weight.value, fold.samples, weight.shape[0]
    if padding_idx is not None:
        table = frozen_row(table, padding_idx)
    rows = fold.rows(ids)
    parts = ids[None] if rows is None else fold.out(ids, rows)
    first = torch.arange(0, k * size, size, device=ids.device)
    y = F.embedding(parts + first.view(-1, *[1] * ids.dim()), table.flatten(0, 1))
    return Sampled(y, fold) if rows is None else fold.into(y, rows.axis)


RULES: dict[Any, Callable[..., Any]] = {F.embedding: embedding}
