"""Mixtures of S normal distributions with equal weights: distribution function, quantiles, CRPS.

A predictive distribution of a value is such a mixture if the likelihood is normal, each weight
sample giving a mean and a standard deviation. A standard deviation of 0 is a point: the samples
alone. Everything is elementwise over values, in float64; samples are on the first axis.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

_ROOT_2PI = math.sqrt(2 * math.pi)
#: Newton steps and halvings at most, and when a quantile is exact: relative to its bracket's ends.
_STEPS, _EXACT = 200, 1e-12
#: Components of a piece that is worked on at once.
BLOCK = 1 << 16


def normal_cdf(mean: Tensor, std: Tensor, at: Tensor) -> Tensor:
    """``Phi((at - mean) / std)``; of a point 0, 1/2 or 1 below, at and above it."""
    gap = at - mean
    point = torch.heaviside(gap, gap.new_full((), 0.5))
    return torch.where(std > 0, torch.special.ndtr(gap / std), point)


def quantiles(mean: Tensor, std: Tensor, levels: Tensor) -> Tensor:
    """Exact quantiles of mixtures: the roots of ``F(x) = level``.

    A quantile of a mixture lies between the least and the largest of its components'. Within this
    bracket Newton's steps are taken, or a halving where a step would leave it
    or is not half as long as the one before. Of points it is the
    least sample with ``F >= level``, as for any empirical distribution; those of samples that are
    a distribution by themselves are :func:`order_statistics`.

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
    shape = mean.shape[1:]
    mean, std = mean.double().reshape(len(mean), -1), std.double().reshape(len(std), -1)
    found = mean.new_empty(len(levels), mean.shape[1])
    for at in _blocks(*mean.shape):
        for k, level in enumerate(levels.double()):
            found[k, at] = _root(mean[:, at], std[:, at], level)
    return found.reshape(len(levels), *shape)


def order_statistics(samples: Tensor, levels: Tensor) -> Tensor:
    """Quantiles of the distribution that S samples were drawn from.

    The k-th least of S exchangeable samples is the quantile of level ``k / (S + 1)``; between two
    of them it is interpolated (Hyndman & Fan 1996, definition 6). Levels outside
    ``1 / (S + 1) .. S / (S + 1)`` are beyond all samples: NaN.

    Parameters
    ----------
    samples
        ``(S, ...)``.
    levels
        ``(Q,)`` within 0 and 1.

    Returns
    -------
    Tensor
        ``(Q, ...)`` float64.
    """
    ordered = samples.double().sort(0).values
    count = len(ordered)
    found = ordered.new_full((len(levels), *ordered.shape[1:]), math.nan)
    for k, level in enumerate(levels.tolist()):
        place = level * (count + 1)
        nearest = round(place)  # 0.9 * 20 is not quite 18
        place = nearest if abs(place - nearest) < 1e-9 else place
        if 1 <= place <= count:
            low = math.floor(place)
            high = min(low + 1, count)
            found[k] = torch.lerp(ordered[low - 1], ordered[high - 1], place - low)
    return found


def _blocks(samples: int, values: int) -> Iterator[slice]:
    """Pieces whose components fit into a core's cache: many passes are made over each."""
    step = max(64, BLOCK // samples)
    for low in range(0, values, step):
        yield slice(low, low + step)


def _root(mean: Tensor, std: Tensor, level: Tensor) -> Tensor:
    each = mean + std * torch.special.ndtri(level)
    low, high = each.amin(0), each.amax(0)
    found, todo = torch.empty_like(low), torch.arange(len(low), device=low.device)
    exact = _EXACT * torch.maximum(low.abs(), high.abs())
    finished = torch.zeros_like(todo, dtype=torch.bool)
    x, before = (low + high) / 2, (high - low).abs()
    for _ in range(_STEPS):
        gap = x - mean
        z = gap / std
        # F(x), points at x counted whole
        up_to = torch.where(std > 0, torch.special.ndtr(z), (gap >= 0).double()).mean(0)
        density = torch.where(std > 0, torch.exp(-0.5 * z**2) / (std * _ROOT_2PI), 0.0).mean(0)
        reached = up_to >= level
        high, low = torch.where(reached, x, high), torch.where(reached, low, x)
        newton = x - (up_to - level) / density
        # never where the density is 0, nor where the steps do not get smaller (they may cycle)
        inside = (newton > low) & (newton < high) & ((newton - x).abs() <= before / 2)
        new = torch.where(inside, newton, (low + high) / 2)
        before = (new - x).abs()
        done = ((new - x).abs() <= exact) & (inside | (high - low <= exact))
        done = (done | (high - low <= exact)) & ~finished
        x = torch.where(high - low <= exact, high, new)
        finished |= done
        found[todo[done]] = x[done]
        left = len(todo) - int(finished.sum())
        if left == 0:
            return found
        if 2 * left < len(todo):
            rest = ~finished
            todo, x, low, high, exact, before, finished = (
                t[rest] for t in (todo, x, low, high, exact, before, finished)
            )
            mean, std = mean[:, rest], std[:, rest]
    found[todo[~finished]] = x[~finished]
    return found


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
    shape = target.shape
    mean, std = mean.double().reshape(len(mean), -1), std.double().reshape(len(std), -1)
    target = target.double().reshape(-1)
    parts = [_crps(mean[:, at], std[:, at], target[at]) for at in _blocks(*mean.shape)]
    return torch.cat(parts).reshape(shape) if parts else target.reshape(shape)


def _crps(mean: Tensor, std: Tensor, target: Tensor) -> Tensor:
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
