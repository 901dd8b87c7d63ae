"""Fixed masks that define sub-networks: Masksembles (Durasov et al. 2021, section 3.2).

n masks with m ones each are drawn at ``T`` positions, and positions without a one in any mask are
removed, so that every unit belongs to a sub-network. The expected width that remains is

    T (1 - (1 - m / T)^n),        T = m scale

so a layer of width C has ``m = floor(C / (scale (1 - (1 - 1 / scale)^n)))``. As in the authors'
code, masks are drawn again until their width is C; T is the number of positions whose expected
width is C. Masks of scale 1 are ones, and those of a large scale have no unit in common.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from hpcsamp.errors import UsageError
from hpcsamp.streams import Purpose
from hpcsamp.streams.branches import branches, words
from hpcsamp.streams.noise import name_of
from hpcsamp.streams.places import signed
from hpcsamp.weights.place import MaskSet
from hpcsamp.weights.routing import slabs
from hpcsamp.weights.routing.now import Now

#: Draws of the masks of a layer until their width fits; hundreds are needed for 10^5 units.
ATTEMPTS = 20_000


@dataclass(frozen=True)
class FixedUnits:
    """The fixed masks of some samples in a call: 1 for a unit that is kept, else 0.

    Attributes
    ----------
    masks, seed, call, width
        Identify the masks, see :func:`masks_of`.
    samples
        Indices of the ``k`` samples.
    dtype
        Type of the masks.
    """

    masks: MaskSet
    seed: int
    call: int
    width: int
    samples: tuple[int, ...]
    dtype: torch.dtype

    def __call__(self, keys: Tensor, count: int) -> Tensor:
        """See :class:`~hpcsamp.weights.routing.now.Numbers`; the keys only have a shape."""
        rows = _rows(self, keys.device)
        return rows.repeat(1, count // self.width).expand(*keys.shape, count)


def units_of(now: Now, name: str, x: Any, lead: int, alpha: bool) -> FixedUnits | None:
    """Return the fixed masks of the next call over the first ``lead`` axes; None if random.

    Calls are counted by those that apply masks, which are the same in training and in prediction.

    Raises
    ------
    UsageError
        If the call has no fixed masks.
    """
    masks = now.place.masks
    if masks is None or masks.fixed is None:
        return None
    if alpha or lead < 2 or len(x.shape) < 2:
        raise unmasked(name if alpha else f"{name} of a tensor without an axis of units")
    call, now.masked = now.masked, now.masked + 1
    width = slabs.whole(x.shape[:lead])[-1]
    dtype = x.dtype if x.dtype.is_floating_point else torch.float32
    return FixedUnits(masks.fixed, now.place.seed, call, width, tuple(now.place.samples), dtype)


def unmasked(name: str) -> UsageError:
    """Return the error for a call that has no fixed masks."""
    return UsageError(
        f"method.masks = 'fixed' keeps a fixed number of units, which {name} does not have; choose "
        f"method.masks = 'sample', or remove this layer"
    )


@lru_cache(maxsize=256)
def _rows(units: FixedUnits, device: torch.device) -> Tensor:
    """Return the ``(k, width)`` masks of the samples; kept, so that a device receives them once."""
    with torch.inference_mode(False):
        every = masks_of(units.masks, units.seed, units.call, units.width)
        return every[[s % units.masks.count for s in units.samples]].to(device, units.dtype)


@lru_cache(maxsize=64)
def masks_of(masks: MaskSet, seed: int, call: int, width: int) -> Tensor:
    """Return the masks of a call, bool of shape ``(n, width)``.

    Each has :func:`ones` ones, and every unit is in at least one mask.

    Raises
    ------
    UsageError
        If a layer of this width has no such masks.
    """
    kept = ones(masks, width)
    at = positions(masks, width)
    root = torch.tensor(signed(name_of(seed, Purpose.MASKS, call)))
    for attempt in range(ATTEMPTS):
        keys = branches(branches(root, torch.tensor([attempt]))[0], torch.arange(masks.count))
        first = words(keys, at).argsort(dim=-1, stable=True)[:, :kept]
        drawn = torch.zeros(masks.count, at, dtype=torch.bool).scatter_(1, first, True)
        used = drawn.any(0)
        if used.sum() == width:
            return drawn[:, used]
    raise _too_narrow(masks, width)


def ones(masks: MaskSet, width: int) -> int:
    """Return the number of ones of each mask over ``width`` units.

    Raises
    ------
    UsageError
        If masks with so many ones cannot cover the units.
    """
    scale = masks.scale
    kept = int(width / (scale * (1 - (1 - 1 / scale) ** masks.count)))
    if kept < 1 or kept * masks.count < width:
        raise _too_narrow(masks, width)
    return kept


def positions(masks: MaskSet, width: int) -> int:
    """Return the number of positions T at which masks are drawn: the expected width is ``width``.

    It is the smallest one whose expected width is at least ``width - 1/2``.
    """
    kept = ones(masks, width)
    low, high = kept, kept

    def expected(at: int) -> float:
        return at * (1 - (1 - kept / at) ** masks.count)

    while expected(high) < width - 0.5:
        low, high = high + 1, 2 * high
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if expected(middle) >= width - 0.5 else (middle + 1, high)
    return low


def _too_narrow(masks: MaskSet, width: int) -> UsageError:
    return UsageError(
        f"a layer of {width} units has no {masks.count} masks of method.mask_scale = "
        f"{masks.scale:g}; choose a smaller scale or a wider layer"
    )
