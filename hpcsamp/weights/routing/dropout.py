"""Dropout, wherever a module calls it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from hpcsamp.errors import UsageError
from hpcsamp.streams.branches import levels
from hpcsamp.weights.routing.now import Now, Route

#: Rates are multiples of 1 / LEVELS: 16 random bits decide about a unit.
LEVELS = 1 << 16
#: Of SELU networks (Klambauer et al. 2017): what alpha dropout puts in the place of a unit.
ALPHA = 1.7580993408473766


@dataclass(frozen=True)
class Kept:
    """``value`` for a unit that is kept, 0 for one that is dropped.

    Attributes
    ----------
    dropped
        Chance of a unit to be dropped, in 1 / LEVELS.
    value, dtype
        Of a unit that is kept.
    """

    dropped: int
    value: float
    dtype: torch.dtype

    def __call__(self, keys: Tensor, count: int) -> Tensor:
        """See :class:`~hpcsamp.weights.routing.now.Numbers`."""
        kept = levels(keys, count) >= self.dropped - LEVELS // 2
        return kept.to(self.dtype).mul_(self.value)


def _rate(now: Now, p: Any, training: bool) -> float | None:
    """The rate of a call, in whole levels; None if it drops nothing by itself."""
    masks = now.place.masks
    if masks is None and not training:
        return None
    rate = float(p if masks is None or masks.rate is None else masks.rate)
    if not 0 <= rate <= 1:
        raise UsageError(f"dropout probability {rate} must be from 0 to 1")
    now.met = True  # also at a rate of 0: it may grow
    return round(rate * LEVELS) / LEVELS


def mask(now: Now, name: str, shape: Sequence[int], rate: float, dtype: torch.dtype) -> Any:
    """A mask of some shape, kept units scaled so that the mean stays."""
    kept = Kept(round(rate * LEVELS), 1 / (1 - rate) if rate < 1 else 0.0, dtype)
    shared = now.place.masks is not None and now.place.masks.shared
    return now.draw(name, shape, kept, kept=True, shared=shared)


def dropout(
    now: Now, input: Any, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Any:
    """Every element by itself."""
    rate = _rate(now, p, training)
    if not rate or not input.numel():
        return input if rate is not None else NotImplemented
    return _product(now, input, mask(now, "dropout", input.shape, rate, input.dtype), inplace)


def feature_dropout(
    now: Now, input: Any, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Any:
    """Whole channels: ``(B, C, ...)``."""
    rate = _rate(now, p, training)
    if not rate or not input.numel():
        return input if rate is not None else NotImplemented
    own = mask(now, "feature_dropout", input.shape[:2], rate, input.dtype)
    ones = (None,) * (input.dim() - 2)
    return _product(now, input, own[(..., *ones)] if ones else own, inplace)


def _product(now: Now, x: Any, mask: Any, inplace: bool) -> Any:
    if mask.dtype != x.dtype:
        mask = mask.to(x.dtype)
    return x * mask


ROUTES: dict[Any, Route] = {F.dropout: dropout, torch.dropout: dropout}
