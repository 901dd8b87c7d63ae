"""Mixtures of S normal distributions with equal weights: distribution function, quantiles, CRPS.

A predictive distribution of a value is such a mixture if the likelihood is normal, each weight
sample giving a mean and a standard deviation. A standard deviation of 0 is a point: the samples
alone. Everything is elementwise over values, in float64; samples are on the first axis.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_ROOT_2PI = math.sqrt(2 * math.pi)
#: Newton steps and halvings at most, and when a quantile is exact: relative to its bracket's ends.
_STEPS, _EXACT = 200, 1e-12


def normal_cdf(mean: Tensor, std: Tensor, at: Tensor) -> Tensor:
    """``Phi((at - mean) / std)``; of a point 0, 1/2 or 1 below, at and above it."""
    gap = at - mean
    point = torch.heaviside(gap, gap.new_full((), 0.5))
    return torch.where(std > 0, torch.special.ndtr(gap / std), point)


def quantiles(mean: Tensor, std: Tensor, levels: Tensor) -> Tensor:
    """Exact quantiles of mixtures: the roots of ``F(x) = level``.

    A quantile of a mixture lies between the least and the largest of its components'. Within this
    bracket Newton's steps are taken, or a halving where a step would leave it. Of points it is the
    least sample with ``F >= level``, as for any empirical distribution.

    Parameters
    ----------
    mean, std
        ``(S, ...)`` of the components.
    levels
        ``(Q,)`` within 0 and 1.

    Returns
    -------
    Tensor
        ``(Q, ...)`` float64.
    """
    mean, std = mean.double(), std.double()
    found = []
    for level in levels.double():
        z = torch.special.ndtri(level)
        each = mean + std * z
        low, high = each.amin(0), each.amax(0)
        found.append(_root(mean, std, level, low, high))
    return torch.stack(found)


def _root(mean: Tensor, std: Tensor, level: Tensor, low: Tensor, high: Tensor) -> Tensor:
    shape = low.shape
    mean, std = mean.reshape(len(mean), -1), std.reshape(len(std), -1)
    low, high = low.reshape(-1), high.reshape(-1)
    found, todo = torch.empty_like(low), torch.arange(len(low), device=low.device)
    exact = _EXACT * torch.maximum(low.abs(), high.abs())
    x = (low + high) / 2
    for _ in range(_STEPS):
        gap = x - mean
        z = gap / std
        # F(x), points at x counted whole
        up_to = torch.where(std > 0, torch.special.ndtr(z), (gap >= 0).double()).mean(0)
        density = torch.where(std > 0, torch.exp(-0.5 * z**2) / (std * _ROOT_2PI), 0.0).mean(0)
        reached = up_to >= level
        high, low = torch.where(reached, x, high), torch.where(reached, low, x)
        newton = x - (up_to - level) / density
        inside = (newton > low) & (newton < high)  # never where the density is 0
        new = torch.where(inside, newton, (low + high) / 2)
        done = ((new - x).abs() <= exact) & (inside | (high - low <= exact))
        done |= high - low <= exact
        x = torch.where(high - low <= exact, high, new)
        if bool(done.any()):
            found[todo[done]] = x[done]
            rest = ~done
            if not bool(rest.any()):
                return found.reshape(shape)
            todo, x, low, high, exact = (t[rest] for t in (todo, x, low, high, exact))
            mean, std = mean[:, rest], std[:, rest]
    found[todo] = x
    return found.reshape(shape)


def crps(mean: Tensor, std: Tensor, target: Tensor) -> Tensor:
    """Continuous ranked probability score of mixtures, exact.

    ``mean_i A(t - mu_i, s_i) - 1/2 mean_ij A(mu_i - mu_j, sqrt(s_i^2 + s_j^2))`` with
    ``A(m, s) = 2 s phi(m / s) + m (2 Phi(m / s) - 1)``, which is ``|m|`` for points: the score of
    the empirical distribution then (Grimit, Gneiting, Berrocal & Johnson 2006, eq. 5). Costs
    ``S^2 / 2`` evaluations a value.

    Parameters
    ----------
    mean, std
        ``(S, ...)`` of the components.
    target
        ``(...)``.

    Returns
    -------
    Tensor
        ``(...)`` float64, units of the target.
    """
    mean, std, target = mean.double(), std.double(), target.double()
    samples = len(mean)
    to_target = _a(target - mean, std).mean(0)
    among = (2 * std / math.sqrt(math.pi)).sum(0)  # A(0, sqrt(2) s_i)
    variance = std**2
    for i in range(samples - 1):
        pairs = _a(mean[i] - mean[i + 1 :], (variance[i] + variance[i + 1 :]).sqrt())
        among = among + 2 * pairs.sum(0)
    return to_target - among / (2 * samples**2)


def _a(m: Tensor, s: Tensor) -> Tensor:
    z = m / torch.where(s > 0, s, 1.0)
    smooth = 2 * s * torch.exp(-0.5 * z**2) / _ROOT_2PI + m * torch.erf(z / math.sqrt(2))
    return torch.where(s > 0, smooth, m.abs())
