"""Dropout of any kind that a module calls, and leaky units with a random slope."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from hpcsamp.errors import UsageError
from hpcsamp.streams.branches import levels
from hpcsamp.weights.routing.forms import SingleSample
from hpcsamp.weights.routing.masksembles import units_of
from hpcsamp.weights.routing.now import Now, Route
from hpcsamp.weights.routing.numbers import Uniform

#: Rates are multiples of 1 / LEVELS: 16 random bits decide whether a unit is dropped.
LEVELS = 1 << 16
#: Negative limit of SELU far below 0, which alpha dropout puts in place of a unit (Klambauer et al.
#: 2017).
ALPHA = 1.7580993408473766


@dataclass(frozen=True)
class KeptUnits:
    """Distribution of a mask: ``value`` for a unit that is kept, 0 for one that is dropped.

    Attributes
    ----------
    dropped
        Probability of dropping a unit, in units of 1 / LEVELS.
    value, dtype
        Value and type of a unit that is kept.
    """

    dropped: int
    value: float
    dtype: torch.dtype

    def __call__(self, keys: Tensor, count: int) -> Tensor:
        """See :class:`~hpcsamp.weights.routing.now.Numbers`."""
        bits = levels(keys, count)
        if self.dropped == LEVELS:
            return torch.zeros_like(bits, dtype=self.dtype)
        return (bits >= self.dropped - LEVELS // 2).to(self.dtype).mul_(self.value)


def dropout(
    now: Now, input: Any, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Any:
    """Drop elements independently."""
    return _dropped(now, "dropout", input, p, training, inplace, len(input.shape), False)


def alpha_dropout(
    now: Now, input: Any, p: float = 0.5, training: bool = False, inplace: bool = False
) -> Any:
    """Drop elements independently; mean and variance of SELU units are preserved."""
    return _dropped(now, "alpha_dropout", input, p, training, inplace, len(input.shape), True)


def feature_dropout(
    now: Now, input: Any, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Any:
    """Drop whole channels of ``(B, C, ...)``."""
    return _dropped(now, "feature_dropout", input, p, training, inplace, 2, False)


def feature_alpha_dropout(
    now: Now, input: Any, p: float = 0.5, training: bool = False, inplace: bool = False
) -> Any:
    """Drop whole channels; mean and variance of SELU units are preserved."""
    return _dropped(now, "feature_alpha_dropout", input, p, training, inplace, 2, True)


def _channels(alone: int) -> Route:
    """Drop channels of ``(B, C, ...)``, or of ``(C, ...)`` for an input with ``alone`` axes."""

    def route(
        now: Now, input: Any, p: float = 0.5, training: bool = True, inplace: bool = False
    ) -> Any:
        lead = 1 if len(input.shape) == alone else 2
        return _dropped(now, "feature_dropout", input, p, training, inplace, lead, False)

    return route


def rate_of(now: Now, p: Any) -> tuple[int, bool]:
    """Probability of dropping a unit, in units of 1 / LEVELS, and whether items share a mask."""
    now.draws.mask()
    masks = now.place.masks
    rate = float(p if masks is None or masks.rate is None else masks.rate)
    if not 0 <= rate <= 1:
        raise UsageError(f"dropout probability {rate} must be from 0 to 1")
    return round(rate * LEVELS), masks is not None and masks.shared


def _dropped(
    now: Now, name: str, x: Any, p: Any, training: bool, inplace: bool, lead: int, alpha: bool
) -> Any:
    """Apply to ``x`` a mask over its first ``lead`` axes."""
    if not training:
        return NotImplemented
    level, shared = rate_of(now, p)
    fixed = units_of(now, name, x, lead, alpha)
    if level == 0 or not x.numel():
        return x  # the call is routed nevertheless, as the rate may grow
    share = 1 - level / LEVELS  # of units kept
    a = math.sqrt(1 / ((ALPHA**2 * (1 - share) + 1) * share)) if alpha and share else 0.0
    value = a if alpha else 1 / share if share else 0.0
    dtype = x.dtype if x.dtype.is_floating_point else torch.float32
    kept = KeptUnits(level, value, dtype) if fixed is None else fixed
    mask = now.draw(name, x.shape[:lead], kept, kept=True, shared=shared)
    if len(x.shape) > lead:
        mask = mask[(..., *[None] * (len(x.shape) - lead))]
    # in other forms the mask introduces the samples, for which the tensor has no room
    within = inplace and isinstance(now.form, SingleSample)
    y = x.mul_(mask) if within else x * mask
    if not alpha or not share:
        return y
    # a (x z - alpha (1 - z)) + a alpha (1 - share) with a mask z of 0 and 1
    offset = ALPHA * (mask - a) + a * ALPHA * (1 - share)
    return y.add_(offset) if within else y + offset


def rrelu(
    now: Now,
    input: Any,
    lower: float = 1 / 8,
    upper: float = 1 / 3,
    training: bool = False,
    inplace: bool = False,
) -> Any:
    """Draw a slope for every negative element."""
    if not training or not input.numel():
        return NotImplemented
    slopes = now.draw("rrelu", input.shape, Uniform(input.dtype, lower, upper))
    y = torch.where(input <= 0, input * slopes, input)
    return input.copy_(y) if inplace and isinstance(now.form, SingleSample) else y


def native_dropout(now: Now, input: Any, p: float, train: bool | None) -> Any:
    """Return outputs and the mask."""
    ones = torch.ones_like(input)
    mask = dropout(now, ones, p, train is not False)
    if mask is NotImplemented:
        return mask
    return input * mask, mask != 0


def _in_place(route: Route) -> Route:
    def within(now: Now, *args: Any, **named: Any) -> Any:
        return route(now, *args, **named, inplace=True)

    return within


ROUTES: dict[Any, Route] = {
    F.dropout: dropout,
    F.dropout1d: _channels(2),
    F.dropout2d: feature_dropout,
    F.dropout3d: _channels(4),
    F.alpha_dropout: alpha_dropout,
    F.feature_alpha_dropout: feature_alpha_dropout,
    F.rrelu: rrelu,
    torch.dropout: dropout,
    torch.dropout_: _in_place(dropout),
    torch.alpha_dropout: alpha_dropout,
    torch.alpha_dropout_: _in_place(alpha_dropout),
    torch.feature_dropout: feature_dropout,
    torch.feature_dropout_: _in_place(feature_dropout),
    torch.feature_alpha_dropout: feature_alpha_dropout,
    torch.feature_alpha_dropout_: _in_place(feature_alpha_dropout),
    torch.native_dropout: native_dropout,
    torch.rrelu: rrelu,
    torch.rrelu_: _in_place(rrelu),
}
