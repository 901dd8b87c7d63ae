"""Standard normal noise of weights, a function of (seed, purpose, step, sample, block).

Blocks have fixed bounds in the global order of the weights, which depend only on their number n, so
that any rank can draw a block on its own:

- n > BLOCK: block b of a sample covers its weights ``b * BLOCK ... (b + 1) * BLOCK - 1``;
- otherwise a block covers ``BLOCK // n`` samples, one row after the other, so that all samples of a
  small network are drawn in one call.

There are two forms of noise. The *native* form, from torch's CPU generator, is the default on CPUs.
The *portable* form is computed from a counter and a hash (:mod:`.places`): its random bits are the
same on every device type and its normal numbers agree to rounding. It is the only form on GPUs;
the environment variable ``HPCSAMP_NOISE=portable`` selects it on CPUs as well, e.g. to compare them
with GPUs.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import overload

import torch
from torch import Tensor

from hpcsamp.errors import UsageError
from hpcsamp.streams.names import Purpose, key
from hpcsamp.streams.places import GAMMA, mix_, mixed, normal_pairs, numbers_of, signed
from hpcsamp.watchdog import here

#: Number of values in a block, which fit into the cache. Results depend on it: never change it.
BLOCK = 1 << 15
#: Distance of the seeds of neighbouring blocks; odd, so that 2**32 blocks have different seeds.
STRIDE = 0x9E37_79B9
#: torch draws 16 normal numbers at a time: only prefixes of such lengths agree with a longer draw.
GROUP = 16
#: Pairs of portable numbers computed at once, which limits the memory for their bits.
PAIRS = 1 << 22

FORMS = ("native", "portable")


def form(device: torch.device) -> str:
    """Return the form of noise on a device type: ``"native"`` or ``"portable"``.

    Raises
    ------
    UsageError
        If ``HPCSAMP_NOISE`` is neither of these, or is not available on this device type.
    """
    asked = os.environ.get("HPCSAMP_NOISE") or ("native" if device.type == "cpu" else "portable")
    if asked not in FORMS:
        raise UsageError(f"HPCSAMP_NOISE = {asked!r}: choose one of {', '.join(FORMS)}")
    if asked == "native" and device.type not in ("cpu", "meta"):
        raise UsageError(
            f"HPCSAMP_NOISE = 'native' is only available on CPUs; on {device.type} choose "
            f"'portable'"
        )
    return asked


def fill(
    out: Tensor,
    seed: int,
    purpose: Purpose,
    step: int | Tensor,
    samples: Sequence[int],
    n: int,
    first: int = 0,
) -> Tensor:
    """Fill a tensor with the noise of some weights of some samples.

    Parameters
    ----------
    out
        ``(k, m)``: row i gets the noise of the weights ``first ... first + m - 1`` of
        ``samples[i]``. Numbers are drawn in float64 or float32; other types get the latter,
        rounded.
    seed, purpose, step
        Identify the stream. The step may be a scalar int64 tensor on the device of ``out``, whose
        value the host does not read in the portable form (a CUDA graph reads it in each replay).
    samples
        Indices of the ``k`` samples.
    n
        Total number of weights, >= ``first + m``.
    first
        Index of the first weight.

    Returns
    -------
    Tensor
        ``out``.

    Raises
    ------
    UsageError
        If the samples have more than 2**32 blocks, for which torch's CPU generator has no seeds.
    """
    k, m = out.shape
    n, first = int(n), int(first)
    samples = samples if isinstance(samples, range) else [int(s) for s in samples]
    if len(samples) != k or first < 0 or first + m > n:
        raise ValueError(
            f"noise of weights {first} to {first + m} of {n}, {len(samples)} samples for {k} rows"
        )
    if out.numel() == 0 or out.is_meta:
        return out
    if form(out.device) == "portable":
        with here.part("draw"):
            return _fill_portable(out, name_of(seed, purpose, step), samples, n, first)
    name = name_of(seed, purpose, int(step))
    blocks = -(-n // BLOCK)  # of a sample; 1 where a block has several samples
    if (max(samples) + 1) * blocks > 1 << 32:
        raise UsageError(
            f"{max(samples) + 1} samples of {n} weights need {(max(samples) + 1) * blocks} blocks "
            f"of noise, but there are seeds for at most {1 << 32} blocks"
        )
    with here.part("draw"):
        if n <= BLOCK:
            _fill_rows(out, name, samples, n, first)
        else:
            _fill_blocks(out, name, samples, n, first)
    return out


@lru_cache(maxsize=16)
def _key(seed: int, purpose: Purpose) -> int:
    return key(seed, purpose)


@overload
def name_of(seed: int, purpose: Purpose, step: int) -> int: ...


@overload
def name_of(seed: int, purpose: Purpose, step: int | Tensor) -> int | Tensor: ...


def name_of(seed: int, purpose: Purpose, step: int | Tensor) -> int | Tensor:
    """Return 64 random bits: value ``step`` of SplitMix64 seeded with the stream's key.

    For a step in a scalar int64 tensor they are the bits of such a tensor, computed on its device.
    """
    first = _key(seed, purpose)
    if isinstance(step, Tensor):
        return mix_(step.add(1).mul_(signed(GAMMA)).add_(signed(first)))
    return mixed(first + (step + 1) * GAMMA)


# Native ----------------------------------------------------------------------------------------


class _Generator(threading.local):
    """torch's CPU generator for the current block, and the numbers already drawn from it."""

    def __init__(self) -> None:
        self._generator = torch.Generator(device="cpu")
        self._numbers = {kind: torch.empty(BLOCK, dtype=kind, device="cpu") for kind in KINDS}
        self._last: tuple[int, torch.dtype] | None = None
        self._drawn = 0

    def fill(self, out: Tensor, name: int, index: int) -> None:
        """Fill a tensor of shape ``(c * BLOCK,)`` with the noise of ``c`` whole blocks."""
        self._last, generator = None, self._generator
        for block in out.split(BLOCK):
            generator.manual_seed(_seed(name, index))
            block.normal_(generator=generator)
            index += 1

    def first(self, count: int, kind: torch.dtype, name: int, index: int) -> Tensor:
        """The first ``count`` numbers of a block; valid until the next call.

        If samples of a small network are evaluated one by one, drawing continues where the last
        call ended.
        """
        this = (_seed(name, index), kind)
        if self._last != this:
            self._last, self._drawn = this, 0
            self._generator.manual_seed(this[0])
        numbers = self._numbers[kind]
        wanted = -(-count // GROUP) * GROUP
        if wanted > self._drawn:
            numbers[self._drawn : wanted].normal_(generator=self._generator)
            self._drawn = wanted
        return numbers[:count]


KINDS = (torch.float32, torch.float64)
_generator = _Generator()


def _seed(name: int, index: int) -> int:
    """Seed of a block; torch's CPU generator uses 32 bits, which differ between a step's blocks."""
    return (name + index * STRIDE) & 0xFFFF_FFFF


def _fill_rows(out: Tensor, name: int, samples: Sequence[int], n: int, first: int) -> None:
    """Fill rows if several samples share a block."""
    per_block, kind, last = BLOCK // n, _kind(out), first + out.shape[1]
    in_order = isinstance(samples, range) and samples.step == 1
    done = 0
    while done < len(samples):
        index, row = divmod(samples[done], per_block)
        rows = min(len(samples) - done, per_block - row) if in_order else 1
        numbers = _generator.first((row + rows) * n, kind, name, index)
        numbers = numbers[row * n :].view(rows, n)[:, first:last]
        out[done : done + rows].copy_(numbers)
        done += rows


def _fill_blocks(out: Tensor, name: int, samples: Sequence[int], n: int, first: int) -> None:
    """Fill rows if a sample has several blocks; only the blocks needed are drawn."""
    kind, last, blocks = _kind(out), first + out.shape[1], -(-n // BLOCK)
    # bounds of the whole blocks within first ... last - 1
    lo, hi = -(-first // BLOCK) * BLOCK, last // BLOCK * BLOCK
    if lo >= hi or out.dtype != kind or out.stride(1) != 1:
        lo = hi = first
    edges = [*_pieces(first, lo), *_pieces(hi, last)]
    for i, (row, sample) in enumerate(zip(out, samples, strict=True)):
        if i and sample == samples[i - 1]:  # of an antithetic pair
            row.copy_(out[i - 1])
            continue
        own = sample * blocks
        if hi > lo:
            _generator.fill(row[lo - first : hi - first], name, own + lo // BLOCK)
        for start, stop in edges:
            before = start // BLOCK * BLOCK
            numbers = _generator.first(stop - before, kind, name, own + start // BLOCK)
            row[start - first : stop - first].copy_(numbers[start - before :])


def _pieces(start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Split ``start ... stop - 1`` at the bounds of blocks."""
    while start < stop:
        end = min((start // BLOCK + 1) * BLOCK, stop)
        yield start, end
        start = end


def _kind(out: Tensor) -> torch.dtype:
    return torch.float64 if out.dtype == torch.float64 else torch.float32


# Portable --------------------------------------------------------------------------------------


def _fill_portable(
    out: Tensor, name: int | Tensor, samples: Sequence[int], n: int, first: int
) -> Tensor:
    """Fill rows with portable noise.

    Weights 2j and 2j + 1 of sample s get the two numbers of counter ``s * ceil(n / 2) + j``.
    """
    last = first + out.shape[1]
    name = signed(name) if isinstance(name, int) else name
    own = numbers_of(samples, out.device).mul(-(-n // 2)).add_(1)[:, None]
    piece = max(1, PAIRS // len(samples))
    for lo in range(first // 2, -(-last // 2), piece):
        hi = min(lo + piece, -(-last // 2))
        z = own + torch.arange(lo, hi, device=out.device)
        bits = mix_(z.mul_(signed(GAMMA)).add_(name))
        pairs = torch.stack(normal_pairs(bits, _kind(out)), dim=-1).flatten(1)
        start, stop = max(2 * lo, first), min(2 * hi, last)
        out[:, start - first : stop - first] = pairs[:, start - 2 * lo : stop - 2 * lo]
    return out
