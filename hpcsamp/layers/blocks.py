"""Channels in several blocks side by side, of each of which a rank has its part.

Such are queries, keys and values, or the channels of tokens that are put together. What is gathered
over ranks lies rank by rank, what a network computes with block by block.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hpcsamp.layers.product import Split


def in_blocks_of(split: Split, blocks: int) -> Split:
    """The same of several blocks side by side, of each of which a rank has its part."""
    return Split(split.over, tuple(blocks * n for n in split.lengths))


def by_rank(x: Tensor, lengths: tuple[int, ...], blocks: int) -> Tensor:
    """``(..., blocks x n)`` of the whole with what belongs to one rank side by side."""
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
