"""Channels in several blocks side by side, where a rank holds a part of each block.

Examples are queries, keys and values, or the channels of concatenated tokens. Gathered channels are
ordered rank by rank, whereas a network computes with them block by block.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hpcsamp.layers.product import Split


def in_blocks_of(split: Split, blocks: int) -> Split:
    """Return the split of blocks side by side, where each rank holds a part of every block."""
    return Split(split.over, tuple(blocks * n for n in split.lengths))


def by_rank(x: Tensor, lengths: tuple[int, ...], blocks: int) -> Tensor:
    """Reorder ``(..., blocks x n)`` channels so that those of each rank are side by side."""
    if blocks == 1 or len(lengths) == 1:
        return x
    parts = x.unflatten(-1, (blocks, sum(lengths))).split(list(lengths), -1)
    return torch.cat([part.flatten(-2) for part in parts], -1)


def in_order(x: Tensor, split: Split, blocks: int) -> Tensor:
    """The inverse of :func:`by_rank`."""
    lengths = split.lengths
    if blocks == 1 or len(lengths) == 1:
        return x
    parts = x.split([blocks * n for n in lengths], -1)
    apart = [p.unflatten(-1, (blocks, n)) for p, n in zip(parts, lengths, strict=True)]
    return torch.cat(apart, -1).flatten(-2)
