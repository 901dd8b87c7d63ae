"""Probability integral transform (PIT): calibration of continuous and discrete predictions.

The PIT ``u`` of a value is the predictive distribution function at its target. If the distribution
is discrete (S samples alone, counts), the function jumps at the target from ``low`` to ``high``,
and ``u`` is a uniform draw between them. The functions here compute expectations over that draw, so
``u`` of a calibrated forecast is uniform for any S (Czado, Gneiting & Held 2009, section 2). For a
continuous distribution, pass the same tensor twice (``low is high``).
"""

from __future__ import annotations

import torch
from torch import Tensor

from hpcsamp.metrics.sums import per_bin


def within(low: Tensor, high: Tensor, level: float) -> Tensor:
    """Probability that ``u`` lies in the central interval: ``|2 u - 1| <= level``."""
    if low is high:
        return ((2 * low - 1).abs() <= level).double()
    return _part(low, high, (1 - level) / 2, (1 + level) / 2)


def coverage(low: Tensor, high: Tensor, weight: Tensor, bins: int) -> Tensor:
    """Weight ``(bins,)`` of the values inside the central intervals of level ``1/bins .. 1``."""
    if low is high:  # find the first level that is at least that of the value, for all at once
        edges = torch.arange(1, bins, dtype=torch.float64, device=low.device) / bins
        which = torch.bucketize((2 * low - 1).abs(), edges)
        return per_bin(which.flatten(), bins, weight.flatten())[0].cumsum(0)
    each = [(weight * within(low, high, (k + 1) / bins)).sum() for k in range(bins)]
    return torch.stack(each)


def histogram(low: Tensor, high: Tensor, weight: Tensor, bins: int) -> Tensor:
    """Weight ``(bins,)`` of the values whose ``u`` lies in each of the equal bins of 0 .. 1."""
    if low is high:
        which = (low * bins).long().clamp_(0, bins - 1)
        return per_bin(which.flatten(), bins, weight.flatten())[0]
    each = [(weight * _part(low, high, k / bins, (k + 1) / bins)).sum() for k in range(bins)]
    return torch.stack(each)


def _part(low: Tensor, high: Tensor, start: float, stop: float) -> Tensor:
    """Fraction of each interval ``low .. high`` within ``start .. stop``; 0 or 1 for a point."""
    width = high - low
    shared = (high.clamp_max(stop) - low.clamp_min(start)).clamp_min(0)
    inside = (low >= start) & ((low < stop) | (low == stop) & (stop >= 1))
    return torch.where(width > 0, shared / torch.where(width > 0, width, 1.0), inside.double())
