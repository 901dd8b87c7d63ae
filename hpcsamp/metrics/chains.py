"""Convergence of chains: rank-normalised split R-hat and bulk effective sample size.

(Vehtari, Gelman, Simpson, Carpenter and Bürkner 2021, "Rank-normalization, folding, and
localization"; the effective sample size by Geyer's initial monotone sequence, as in Stan.) Draws
that differ by rounding errors are tied, and tied draws have their mean rank, so that the results do
not depend on the number of ranks that evaluated the draws.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

THRESHOLD = 1.01
"""R-hat above which the paper advises against using the draws."""
FOR_R_HAT = 4
"""Smallest number of draws per chain for R-hat: two in each half."""
FOR_ESS = 10
"""Smallest number of draws per chain for the effective sample size: with fewer, Geyer's sequence
ends before its first autocorrelations, and the result is the same for any draws."""
TIED = 1e-10
"""Size of a rounding error as a fraction of the range of the draws of a value."""


def diagnose(draws: Tensor, eps: float = 0.0) -> tuple[Tensor, Tensor]:
    """Compute R-hat and the bulk effective sample size of each of V values.

    Parameters
    ----------
    draws
        ``(m, n, V)``: n draws of each of m chains, in the order of the chain. If n is odd, the
        middle draw is left out.
    eps
        Rounding error relative to the largest draw of a value; values with a smaller range do not
        vary.

    Returns
    -------
    r_hat, ess
        ``(V,)`` float64 each; NaN for values that do not vary, infinite and 0 if a draw is not a
        finite number. ``r_hat`` is NaN for fewer than 4 draws, ``ess`` for fewer than 10.
    """
    chains, count, values = draws.shape
    half = count // 2
    split = torch.cat([draws[:, :half], draws[:, count - half :]]).double()  # (2m, half, V)
    finite = split.isfinite().all(0).all(0)
    pooled = torch.where(finite, split, 0.0).reshape(2 * chains * half, values)
    r_hat, ess = pooled.new_full((2, values), math.nan)
    if count >= FOR_R_HAT:
        low, high = pooled.aminmax(dim=0)
        width, largest = high - low, torch.maximum(low.abs(), high.abs())
        least = torch.finfo(torch.float64).eps
        near = torch.maximum(TIED * width, 16 * least * largest)
        varies = width > torch.maximum(near, 4 * eps * largest)
        shape = (2 * chains, half, values)
        bulk = normal_scores(pooled, near).reshape(shape)
        middle = (pooled.median(0).values - (-pooled).median(0).values) / 2
        folded = normal_scores((pooled - middle).abs(), near).reshape(shape)
        r_hat = torch.maximum(_r_hat(bulk), _r_hat(folded).nan_to_num(nan=0.0, posinf=math.inf))
        r_hat = r_hat.masked_fill(~varies, math.nan)
        if count >= FOR_ESS:
            ess = _ess(bulk).masked_fill(~varies, math.nan)
    return r_hat.masked_fill(~finite, math.inf), ess.masked_fill(~finite, 0.0)


def normal_scores(draws: Tensor, near: Tensor) -> Tensor:
    """Replace draws by the normal quantiles of their ranks (their equation 14; Blom 1958).

    Parameters
    ----------
    draws
        ``(S, V)``.
    near
        ``(V,)``: neighbouring draws that are at most so far apart are tied.
    """
    ordered, order = draws.sort(0)
    apart = ordered.diff(dim=0) > near
    place = torch.arange(len(draws), device=draws.device)[:, None].expand_as(draws)
    edge = torch.ones_like(apart[:1])
    first = torch.where(torch.cat([edge, apart]), place, 0).cummax(0).values
    last = torch.where(torch.cat([apart, edge]), place, len(draws)).flip(0).cummin(0).values.flip(0)
    ranks = torch.arange(2 * len(draws) - 1, device=draws.device).double() / 2 + 1
    scores = torch.special.ndtri((ranks - 3 / 8) / (len(draws) + 1 / 4))
    return torch.empty_like(draws).scatter_(0, order, scores[first + last])


def _r_hat(z: Tensor) -> Tensor:
    """Potential scale reduction of ``(m, n, V)`` (their equations 1 to 4)."""
    n = z.shape[1]
    within, between = z.var(1).mean(0), z.mean(1).var(0)
    return (between / within + (n - 1) / n).sqrt()


def _ess(z: Tensor) -> Tensor:
    """Effective sample size of ``(m, n, V)`` (their equations 8 to 13; Geyer 1992)."""
    m, n, values = z.shape
    centred = z - z.mean(1, keepdim=True)
    within = centred.square().sum(1).mean(0) / (n - 1)
    total = within * (n - 1) / n + z.mean(1).var(0)

    def correlation(lag: int) -> Tensor:
        covariance = (centred[:, lag:] * centred[:, : n - lag]).sum(1).mean(0) / n
        return 1 - (within - covariance) / total

    tau = z.new_full((values,), -1.0)
    smallest = z.new_full((values,), math.inf)
    alive = torch.ones(values, dtype=torch.bool, device=z.device)
    lag, even = 0, torch.ones_like(tau)
    while alive.any():
        odd = correlation(lag + 1)
        pair = even + odd
        # the sums of pairs are made monotone until one is not positive, beyond rounding errors
        go_on = alive & (pair > 1e-10) & (lag + 1 < n - 3)
        smallest = torch.minimum(smallest, pair)
        tau += torch.where(go_on, 2 * smallest, 0.0)
        kept = torch.where((pair >= 0) | (even > 0), even, 0.0)
        tau += torch.where(alive & ~go_on, kept, 0.0)
        alive = go_on
        lag += 2
        even = correlation(lag) if lag < n else even
    return m * n / tau.clamp_min(1 / math.log10(m * n))
