"""Random streams for every call of a sample, each with a sub-stream for every item.

    key of a run  ->  of a step  ->  of a sample  ->  of a call  ->  of an item  ->  its numbers

Each arrow is the hash of SplitMix64 (:mod:`.places`), so all branches are computed at once by
tensor operations, with the same bits on every device type. No number depends on how many
steps, samples, calls or items are drawn.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hpcsamp.streams.places import GAMMA, mix_, normal_pairs, signed

#: Increment of branches: odd, and different from that of successive numbers of a stream.
BRANCH = 0xD1B5_4A32_D192_ED03


def branches(keys: Tensor, numbers: Tensor) -> Tensor:
    """Keys of branches of each stream, int64 of shape ``(..., n)``.

    ``numbers``: indices of the branches, int64 >= 0 of shape ``(n,)``.
    """
    return mix_(keys[..., None] + numbers.add(1).mul_(signed(BRANCH)))


def words(keys: Tensor, count: int) -> Tensor:
    """The first ``count`` numbers of each stream, int64 with 64 random bits; ``(..., count)``."""
    own = torch.arange(1, count + 1, dtype=torch.int64, device=keys.device)
    return mix_(keys[..., None] + own.mul_(signed(GAMMA)))


def levels(keys: Tensor, count: int) -> Tensor:
    """Random int16 numbers with 16 random bits, shape ``(..., count)``."""
    return words(keys, -(-count // 4)).view(torch.int16)[..., :count]


def uniform(keys: Tensor, count: int, dtype: torch.dtype) -> Tensor:
    """Uniform numbers in [0, 1) with all bits of the dtype's mantissa, shape ``(..., count)``."""
    kind = dtype if dtype in (torch.float32, torch.float64) else torch.float32
    digits = round(1 - torch.log2(torch.tensor(torch.finfo(dtype).eps)).item())
    bits = words(keys, count)
    whole = (bits >> 64 - digits).bitwise_and_((1 << digits) - 1)
    return whole.to(kind).mul_(2.0**-digits).to(dtype)


def normal(keys: Tensor, count: int, dtype: torch.dtype) -> Tensor:
    """Standard normal numbers, shape ``(..., count)``."""
    kind = dtype if dtype in (torch.float32, torch.float64) else torch.float32
    pairs = torch.stack(normal_pairs(words(keys, -(-count // 2)), kind), dim=-1)
    return pairs.flatten(-2)[..., :count].to(dtype)
