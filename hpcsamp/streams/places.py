"""Streams with places: random bits and normal numbers of many places at once.

Where thousands of items (or samples) need a few numbers each, a generator for each would take
longer than the numbers. SplitMix64 (Steele, Lea and Flood 2014) is a counter and a hash: its n-th
number is had without those before, so that all places are computed at once by tensor operations,
with the same bits on every kind of device.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

GAMMA = 0x9E37_79B9_7F4A_7C15
_MIX = ((30, 0xBF58_476D_1CE4_E5B9), (27, 0x94D0_49BB_1331_11EB))


def signed(word: int) -> int:
    """The same 64 bits as torch's int64 has them."""
    return (word & 0xFFFF_FFFF_FFFF_FFFF ^ 1 << 63) - (1 << 63)


def mixed(word: int) -> int:
    """The hash of SplitMix64 of 64 bits."""
    word &= 0xFFFF_FFFF_FFFF_FFFF
    for shift, factor in _MIX:
        word = (word ^ word >> shift) * factor & 0xFFFF_FFFF_FFFF_FFFF
    return word ^ word >> 31


def mix_(z: Tensor) -> Tensor:
    """The same of int64 numbers, in place."""
    for shift, factor in _MIX:
        z ^= (z >> shift).bitwise_and_((1 << 64 - shift) - 1)  # int64 shifts its sign in
        z *= signed(factor)
    z ^= (z >> 31).bitwise_and_((1 << 33) - 1)
    return z


def normal_pairs(bits: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Two standard normal numbers of each 64 random bits (Box and Muller 1958).

    ``dtype``: float32 or float64.
    """
    low, high = bits & 0xFFFF_FFFF, (bits >> 32) & 0xFFFF_FFFF
    radius = low.to(dtype).add_(0.5).mul_(2.0**-32).log_().mul_(-2).sqrt_()
    angle = high.to(dtype).mul_(2 * torch.pi * 2.0**-32)
    return radius * angle.cos(), radius * angle.sin()


def place_keys(keys: Sequence[int], device: torch.device | str) -> Tensor:
    """``(k,)`` int64: keys of streams (:func:`~hpcsamp.streams.key`) for :func:`place_bits`."""
    return torch.tensor([signed(k) for k in keys], dtype=torch.int64, device=device)


def place_bits(keys: Tensor, places: Tensor, count: int) -> Tensor:
    """Random bits for places of streams.

    Parameters
    ----------
    keys
        ``(...)`` int64 from :func:`place_keys`. Works under ``torch.func.vmap`` over them.
    places
        ``(B,)`` int64 >= 0: positions of items in their split, or samples.
    count
        Numbers for each place.

    Returns
    -------
    Tensor
        ``(..., B, count)`` int64, all 64 bits random. Place ``b`` has the numbers
        ``b * count ... (b + 1) * count - 1`` of SplitMix64 seeded with the key.
    """
    first = places.mul(count).add_(1).mul_(signed(GAMMA))
    more = torch.arange(count, dtype=torch.int64, device=places.device).mul_(signed(GAMMA))
    z = keys[..., None, None] + (first[:, None] + more)
    return mix_(z)


def place_normals(keys: Tensor, places: Tensor, count: int, dtype: torch.dtype) -> Tensor:
    """``(..., B, count)`` standard normal numbers for places (Box and Muller 1958).

    Parameters as for :func:`place_bits`; ``dtype`` float32 or float64.
    """
    pairs = -(-count // 2)
    bits = place_bits(keys, places, pairs)
    return torch.cat(normal_pairs(bits, dtype), dim=-1)[..., :count]
