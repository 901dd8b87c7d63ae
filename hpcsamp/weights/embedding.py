"""Embedding tables with a row for padding."""

from __future__ import annotations

import torch
from torch import Tensor


def frozen_row(table: Tensor, row: int) -> Tensor:
    """Return ``(..., V, d)`` tables in which one row has no gradient, as for ``padding_idx``."""
    size = table.shape[-2]
    padding = torch.arange(size, device=table.device) == row % size
    return torch.where(padding[:, None], table.detach(), table)
