"""Random bits and normal numbers at many places of a stream, computed by tensor operations.

If thousands of items (or samples) need a few numbers each, creating a generator for each would take
longer than drawing. SplitMix64 (Steele, Lea and Flood 2014) hashes a counter: its n-th number does
not depend on the previous ones, so the numbers of all places are computed at once, with the same
bits on every device type.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

GAMMA = 0x9E37_79B9_7F4A_7C15
_MIX = ((30, 0xBF58_476D_1CE4_E5B9), (27, 0x94D0_49BB_1331_11EB))


def signed(word: int) -> int:
    """Interpret 64 bits as a signed integer, as in torch's int64."""
    return (word & 0xFFFF_FFFF_FFFF_FFFF ^ 1 << 63) - (1 << 63)


def mixed(word: int) -> int:
    """SplitMix64 hash of a 64-bit integer."""
    word &= 0xFFFF_FFFF_FFFF_FFFF
    for shift, factor in _MIX:
        word = (word ^ word >> shift) * factor & 0xFFFF_FFFF_FFFF_FFFF
    return word ^ word >> 31


def mix_(z: Tensor) -> Tensor:
    """SplitMix64 hash of a tensor of int64 numbers, in place."""
    for shift, factor in _MIX:
        z ^= (z >> shift).bitwise_and_((1 << 64 - shift) - 1)  # clears the sign bits shifted in
        z *= signed(factor)
    z ^= (z >> 31).bitwise_and_((1 << 33) - 1)
    return z


def normal_pairs(bits: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return two standard normal numbers for each 64 random bits (Box and Muller 1958).

    ``dtype``: float32 or float64.
    """
    low, high = bits & 0xFFFF_FFFF, (bits >> 32) & 0xFFFF_FFFF
    radius = low.to(dtype).add_(0.5).mul_(2.0**-32).log_().mul_(-2).sqrt_()
    angle = high.to(dtype).mul_(2 * torch.pi * 2.0**-32)
    return radius * angle.cos(), radius * angle.sin()


def numbers_of(indices: Sequence[int], device: torch.device) -> Tensor:
    """Return indices of samples as an int64 tensor ``(k,)``, which must not be written to.

    Nothing is copied to the device, or only once: such a copy makes the host wait for a GPU.
    """
    if not len(indices) or list(indices) == list(range(indices[0], indices[-1] + 1)):
        first = indices[0] if len(indices) else 0
        return torch.arange(first, first + len(indices), device=device)
    return _listed(tuple(indices), device)


@lru_cache(maxsize=256)
def _listed(indices: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.tensor(indices, dtype=torch.int64, device=device)


def place_keys(keys: Sequence[int], device: torch.device | str) -> Tensor:
    """Keys of streams (:func:`~hpcsamp.streams.key`) for :func:`place_bits`, int64 ``(k,)``."""
    if len(keys) == 1:  # without a copy from the host
        return torch.full((1,), signed(keys[0]), dtype=torch.int64, device=device)
    return torch.tensor([signed(k) for k in keys], dtype=torch.int64, device=device)


def place_bits(keys: Tensor, places: Tensor, count: int) -> Tensor:
    """Random bits at places of streams.

    Parameters
    ----------
    keys
        int64 of shape ``(...)`` from :func:`place_keys`. May be mapped by ``torch.func.vmap``.
    places
        int64 >= 0 of shape ``(B,)``: positions of items in their split, or indices of samples.
    count
        Number of random numbers for each place.

    Returns
    -------
    Tensor
        int64 of shape ``(..., B, count)`` with 64 random bits. Place ``b`` gets the numbers
        ``b * count ... (b + 1) * count - 1`` of SplitMix64 seeded with the key.
    """
    first = places.mul(count).add_(1).mul_(signed(GAMMA))
    more = torch.arange(count, dtype=torch.int64, device=places.device).mul_(signed(GAMMA))
    z = keys[..., None, None] + (first[:, None] + more)
    return mix_(z)


def place_normals(keys: Tensor, places: Tensor, count: int, dtype: torch.dtype) -> Tensor:
    """Standard normal numbers at places, shape ``(..., B, count)`` (Box and Muller 1958).

    Parameters as for :func:`place_bits`; ``dtype`` float32 or float64.
    """
    pairs = -(-count // 2)
    bits = place_bits(keys, places, pairs)
    return torch.cat(normal_pairs(bits, dtype), dim=-1)[..., :count]
