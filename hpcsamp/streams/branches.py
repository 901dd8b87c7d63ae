"""Streams that branch: a stream for every call of a sample, and one in it for every item.

    key of a run  ->  of a step  ->  of a sample  ->  of a call  ->  of an item  ->  its numbers

Each arrow is the hash of SplitMix64 (:mod:`.places`), so all branches are had at once by tensor
operations, with the same bits on every kind of device, and no number depends on how many there are
of anything.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hpcsamp.streams.places import GAMMA, mix_, normal_pairs, signed

#: Odd, and another one than that of the numbers of a stream.
BRANCH = 0xD1B5_4A32_D192_ED03


def branches(keys: Tensor, numbers: Tensor) -> Tensor:
    """``(..., n)`` int64 keys of the branches ``numbers``, ``(n,)`` int64 >= 0, of each stream."""
    return mix_(keys[..., None] + numbers.add(1).mul_(signed(BRANCH)))


def words(keys: Tensor, count: int) -> Tensor:
    """``(..., count)`` int64, all 64 bits random: the first numbers of each stream."""
    own = torch.arange(1, count + 1, dtype=torch.int64, device=keys.device)
    return mix_(keys[..., None] + own.mul_(signed(GAMMA)))


def levels(keys: Tensor, count: int) -> Tensor:
    """``(..., count)`` int16, all 16 bits random."""
    return words(keys, -(-count // 4)).view(torch.int16)[..., :count]


def uniform(keys: Tensor, count: int, dtype: torch.dtype) -> Tensor:
    """``(..., count)`` uniform numbers from 0 to below 1, of as many bits as the type has."""
    kind = dtype if dtype in (torch.float32, torch.float64) else torch.float32
    digits = round(1 - torch.log2(torch.tensor(torch.finfo(dtype).eps)).item())
    bits = words(keys, count)
    whole = (bits >> 64 - digits).bitwise_and_((1 << digits) - 1)
    return whole.to(kind).mul_(2.0**-digits).to(dtype)


def normal(keys: Tensor, count: int, dtype: torch.dtype) -> Tensor:
    """``(..., count)`` standard normal numbers."""
    kind = dtype if dtype in (torch.float32, torch.float64) else torch.float32
    pairs = torch.stack(normal_pairs(words(keys, -(-count // 2)), kind), dim=-1)
    return pairs.flatten(-2)[..., :count].to(dtype)
