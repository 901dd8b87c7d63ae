"""Mixtures of S normal distributions with equal weights: distribution function, quantiles, CRPS.

The predictive distribution of a value is a mixture if the likelihood is normal: each weight
sample provides a mean and a standard deviation. A standard deviation of 0 makes it a point, as for
samples alone. All functions work elementwise over values in float64; samples are on the first axis.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

_ROOT_2PI = math.sqrt(2 * math.pi)
#: Largest number of Newton and bisection steps, and tolerance relative to the ends of the bracket.
_STEPS, _EXACT = 200, 1e-12
#: Number of components of a block that is processed at once.
BLOCK = 1 << 16


def normal_cdf(mean: Tensor, std: Tensor, at: Tensor) -> Tensor:
    """Normal distribution function ``Phi((at - mean) / std)``; 1/2 at the mean if ``std`` is 0."""
    gap = at - mean
    point = torch.heaviside(gap, gap.new_full((), 0.5))
    return torch.where(std > 0, torch.special.ndtr(gap / std), point)


def quantiles(mean: Tensor, std: Tensor, levels: Tensor) -> Tensor:
    """Compute exact quantiles of mixtures: the roots of ``F(x) = level``.

    A quantile of a mixture lies between the smallest and the largest quantile of its components.
    Within this bracket Newton steps are taken; the bracket is bisected where a step would leave it
    or is more than half as long as the one before. The quantile of points is the smallest sample
    with ``F >= level``, as for any empirical distribution. If the samples are themselves the
    distribution, use :func:`order_statistics`.

    Parameters
    ----------
    mean, std
        ``(S, ...)`` means and standard deviations of the components.
    levels
        ``(Q,)`` probabilities between 0 and 1.

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
    """Estimate quantiles of the distribution that S samples were drawn from.

    The k-th smallest of S exchangeable samples is the quantile of level ``k / (S + 1)``; quantiles
    between two of them are interpolated (Hyndman & Fan 1996, definition 6). Levels outside
    ``1 / (S + 1) .. S / (S + 1)`` lie beyond all samples and are NaN.

    Parameters
    ----------
    samples
        ``(S, ...)``.
    levels
        ``(Q,)`` probabilities between 0 and 1.

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
    """Yield blocks whose components fit into a core's cache, as each is passed over many times."""
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
        # F(x), with points at x counted in full
        up_to = torch.where(std > 0, torch.special.ndtr(z), (gap >= 0).double()).mean(0)
        density = torch.where(std > 0, torch.exp(-0.5 * z**2) / (std * _ROOT_2PI), 0.0).mean(0)
        reached = up_to >= level
        high, low = torch.where(reached, x, high), torch.where(reached, low, x)
        newton = x - (up_to - level) / density
        # no Newton step where the density is 0 or where steps do not shrink, as they may cycle
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
    """Compute the exact continuous ranked probability score (CRPS) of mixtures.

    ``mean_i A(t - mu_i, s_i) - 1/2 mean_ij A(mu_i - mu_j, sqrt(s_i^2 + s_j^2))`` with
    ``A(m, s) = 2 s phi(m / s) + m (2 Phi(m / s) - 1)``, which is ``|m|`` for points; it is then the
    score of the empirical distribution (Grimit, Gneiting, Berrocal & Johnson 2006, eq. 5). It costs
    ``S^2 / 2`` evaluations of A for each value.

    Parameters
    ----------
    mean, std
        ``(S, ...)`` means and standard deviations of the components.
    target
        ``(...)``.

    Returns
    -------
    Tensor
        ``(...)`` float64, in units of the target.
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
