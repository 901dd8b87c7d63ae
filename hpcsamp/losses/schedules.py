"""Warm-up schedules of the KL: functions of the step, from 0 to 1, for ``ELBO(warmup=...)``."""

from __future__ import annotations

import math
from collections.abc import Callable

from hpcsamp.errors import UsageError

Schedule = Callable[[int], float]


def linear(steps: int) -> Schedule:
    """Linear warm-up ``(step + 1) / steps`` up to 1; the factor of the first step is above 0.

    (Sønderby et al. 2016, section 2.3.)
    """
    _at_least_one("steps of a linear warm-up", steps)
    return lambda step: min(1.0, (step + 1) / steps)


def cosine(steps: int) -> Schedule:
    """Smooth warm-up that follows half a period of a cosine from 0 to 1."""
    _at_least_one("steps of a cosine warm-up", steps)
    return lambda step: 0.5 - 0.5 * math.cos(math.pi * min(1.0, (step + 1) / steps))


def cyclic(period: int, growing: float = 0.5) -> Schedule:
    """Cyclic warm-up: a linear warm-up over the first part of every ``period`` steps.

    (Fu et al. 2019, eq. 6.)

    Parameters
    ----------
    period
        Length of a cycle in steps.
    growing
        Fraction of a period in which the factor grows; above 0, at most 1.
    """
    _at_least_one("period of a cyclic warm-up", period)
    if not 0 < growing <= 1:
        raise UsageError(
            f"growing of a cyclic warm-up must be above 0 and at most 1, got {growing}"
        )
    return lambda step: min(1.0, (step % period + 1) / (period * growing))


def _at_least_one(what: str, value: int) -> None:
    if value < 1:
        raise UsageError(f"the {what} must be at least 1, got {value}")
