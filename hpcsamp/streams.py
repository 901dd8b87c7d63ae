"""Counter-based randomness: every draw is a pure function of what it is for.

A stream is named by (seed, purpose, counters...), never by a rank and never by how much was drawn
before, so a run draws the same numbers on any grid and after any restart (law 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


class Purpose(IntEnum):
    """What a stream is for. The numbers are part of the results: never renumber."""

    INITIAL = 1  # initial parameters: (), of a member (member,)
    NOISE = 2  # weight noise in training: (step, sample)
    PREDICT = 3  # weight noise in evaluation and prediction: (sample,)
    DROPOUT = 4  # dropout masks: (), place step and sample; or (step, sample), place item
    AUGMENT = 5  # augmentation: (epoch, item, sample)
    ORDER = 6  # order of items: (epoch, ...)
    SYNTHETIC = 7  # made-up data: (split, item)
    SPLIT = 8  # items dealt to train, valid and test: ()
    ITEM = 9  # noise of items in training: (step, sample), apart by layer, place item
    ANCHOR = 10  # centres of the priors of an ensemble: (member,)


def key(seed: int, purpose: Purpose, *counters: int) -> int:
    """A 64-bit key for a stream.

    Parameters
    ----------
    seed
        The run's seed, >= 0.
    purpose
        What the numbers are for.
    counters
        Non-negative integers: step, sample, epoch, item, as listed at :class:`Purpose`.
    """
    words = np.random.SeedSequence([seed, int(purpose), *counters]).generate_state(1, np.uint64)
    return int(words[0])


def numpy_generator(seed: int, purpose: Purpose, *counters: int) -> np.random.Generator:
    """A NumPy generator (Philox) at the start of a stream."""
    return np.random.Generator(np.random.Philox(key=key(seed, purpose, *counters)))


def torch_generator(
    device: torch.device | str, seed: int, purpose: Purpose, *counters: int
) -> torch.Generator:
    """A torch generator at the start of a stream.

    CPU and GPU generators differ, so numbers agree between ranks and restarts on one kind of
    device, not between kinds.

    torch's CPU generator looks at the low 32 bits of its seed alone, so the last counter (the
    sample) is added with an odd factor: the samples of a step can then never share a seed, where
    hashed seeds would meet once in 2**32 / S**2 steps.
    """
    import torch

    last = counters[-1] if counters else 0
    seed64 = key(seed, purpose, *counters[:-1]) + last * 0x9E37_79B9_7F4A_7C15
    generator = torch.Generator(device=device)
    generator.manual_seed(seed64 & 0x7FFF_FFFF_FFFF_FFFF)
    return generator


_IN_CACHE = 1 << 15


def fill_normal(out: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Fill a flat tensor with standard normal numbers: those of one ``normal_``, only sooner.

    torch passes over the whole tensor several times; on a CPU it is filled in pieces that stay in
    the cache (2.7 million numbers: 8.8 instead of 12.1 ms amid a training step).
    """
    if out.device.type != "cpu":
        return out.normal_(generator=generator)
    # torch draws 16 at a time and ends a tensor's rest in its own way, so no piece is that short
    pieces = max(1, (out.numel() - 16) // _IN_CACHE)
    for piece in range(pieces):
        stop = (piece + 1) * _IN_CACHE if piece < pieces - 1 else out.numel()
        out[piece * _IN_CACHE : stop].normal_(generator=generator)
    return out


# Streams with places --------------------------------------------------------------------------
#
# Where thousands of items (or samples) need a few numbers each, a generator for each would take
# longer than the numbers. SplitMix64 (Steele, Lea and Flood 2014) is a counter and a hash: its n-th
# number is had without those before, so that all places are computed at once by tensor operations,
# with the same bits on every kind of device.

_GAMMA = 0x9E37_79B9_7F4A_7C15
_MIX = ((30, 0xBF58_476D_1CE4_E5B9), (27, 0x94D0_49BB_1331_11EB))


def _signed(word: int) -> int:
    """The same 64 bits as torch's int64 has them."""
    return (word & 0xFFFF_FFFF_FFFF_FFFF ^ 1 << 63) - (1 << 63)


def place_keys(keys: Sequence[int], device: torch.device | str) -> torch.Tensor:
    """``(k,)`` int64: keys of streams (:func:`key`) for :func:`place_bits`."""
    import torch

    return torch.tensor([_signed(k) for k in keys], dtype=torch.int64, device=device)


def place_bits(keys: torch.Tensor, places: torch.Tensor, count: int) -> torch.Tensor:
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
    import torch

    first = places.mul(count).add_(1).mul_(_signed(_GAMMA))
    more = torch.arange(count, dtype=torch.int64, device=places.device).mul_(_signed(_GAMMA))
    z = keys[..., None, None] + (first[:, None] + more)
    for shift, factor in _MIX:
        z ^= (z >> shift).bitwise_and_((1 << 64 - shift) - 1)  # int64 shifts its sign in
        z *= _signed(factor)
    z ^= (z >> 31).bitwise_and_((1 << 33) - 1)
    return z


def place_normals(
    keys: torch.Tensor, places: torch.Tensor, count: int, dtype: torch.dtype
) -> torch.Tensor:
    """``(..., B, count)`` standard normal numbers for places (Box and Muller 1958).

    Parameters as for :func:`place_bits`; ``dtype`` float32 or float64.
    """
    import torch

    pairs = -(-count // 2)
    bits = place_bits(keys, places, pairs)
    low, high = bits & 0xFFFF_FFFF, (bits >> 32) & 0xFFFF_FFFF
    radius = low.to(dtype).add_(0.5).mul_(2.0**-32).log_().mul_(-2).sqrt_()
    angle = high.to(dtype).mul_(2 * torch.pi * 2.0**-32)
    return torch.cat([radius * angle.cos(), radius * angle.sin()], dim=-1)[..., :count]
