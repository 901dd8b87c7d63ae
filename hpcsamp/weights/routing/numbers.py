"""Distributions of random numbers that calls draw, computed from stream keys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hpcsamp.streams.branches import normal, uniform, words


@dataclass(frozen=True)
class Uniform:
    """Uniform distribution on ``[low, high)``."""

    dtype: torch.dtype
    low: float = 0.0
    high: float = 1.0

    def __call__(self, keys: Tensor, count: int) -> Tensor:
        """See :class:`~hpcsamp.weights.routing.now.Numbers`."""
        u = uniform(keys, count, self.dtype)
        if (self.low, self.high) == (0.0, 1.0):
            return u
        return u.mul_(self.high - self.low).add_(self.low)


@dataclass(frozen=True)
class Normal:
    """Normal distribution with mean 0 and standard deviation 1."""

    dtype: torch.dtype

    def __call__(self, keys: Tensor, count: int) -> Tensor:
        """See :class:`~hpcsamp.weights.routing.now.Numbers`."""
        return normal(keys, count, self.dtype)


@dataclass(frozen=True)
class Exponential:
    """Exponential distribution with mean 1; numbers are never 0."""

    dtype: torch.dtype

    def __call__(self, keys: Tensor, count: int) -> Tensor:
        """See :class:`~hpcsamp.weights.routing.now.Numbers`."""
        kind = self.dtype if self.dtype == torch.float64 else torch.float32
        return (
            uniform(keys, count, kind)
            .neg_()
            .add_(1)
            .log_()
            .neg_()
            .clamp_(min=2.0**-60)
            .to(self.dtype)
        )


@dataclass(frozen=True)
class Whole:
    """Integers from ``low`` to ``high - 1`` with equal probability (up to 2**-63)."""

    dtype: torch.dtype
    low: int
    high: int

    def __call__(self, keys: Tensor, count: int) -> Tensor:
        """See :class:`~hpcsamp.weights.routing.now.Numbers`."""
        bits = words(keys, count).bitwise_and_((1 << 63) - 1)
        return bits.remainder_(self.high - self.low).add_(self.low).to(self.dtype)


@dataclass(frozen=True)
class Permutation:
    """A random permutation of the integers from 0 to ``count - 1``."""

    #: The numbers cannot be divided by item.
    together: ClassVar[bool] = True
    dtype: torch.dtype

    def __call__(self, keys: Tensor, count: int) -> Tensor:
        """See :class:`~hpcsamp.weights.routing.now.Numbers`."""
        return words(keys, count).argsort(-1).to(self.dtype)
