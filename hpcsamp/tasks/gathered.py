"""Exact quantiles and CRPS of the predictive mixture, which need all samples of a value at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hpcsamp.collectives import Collectives
from hpcsamp.grid import share
from hpcsamp.metrics.mixtures import crps, order_statistics, quantiles

#: Largest number of components, over all samples, that are in memory at once.
CHUNK = 1 << 22


def of_all_samples(
    means: Tensor,
    stds: Tensor,
    counts: Sequence[int],
    group: Collectives,
    *,
    target: Tensor | None = None,
    levels: Sequence[float] = (),
    alone: bool = False,
) -> tuple[Tensor | None, Tensor]:
    """Compute the CRPS and quantiles of the mixture of all samples. Collective over the group.

    Components are gathered in pieces of bounded size; each rank works on its share of a piece, and
    the results are summed, so memory does not grow with S and work is split P ways.

    Parameters
    ----------
    means, stds
        ``(s, B, ...)`` components of this rank's samples.
    counts
        Number of samples on each rank of the group.
    target
        ``(B, ...)`` targets for the CRPS; None if it is not needed.
    levels
        ``Q`` probabilities of the quantiles.
    alone
        Whether the samples alone, without noise, are the distribution; quantiles are then their
        order statistics.

    Returns
    -------
    tuple
        CRPS ``(B, ...)``, None without targets, and quantiles ``(Q, B, ...)``; float64, the same on
        all ranks of the group.
    """
    shape, total = means.shape[1:], sum(counts)
    flat_means, flat_stds = (t.double().reshape(len(t), -1) for t in (means, stds))
    size = flat_means.shape[1]
    rows = len(levels) + (target is not None)
    out = flat_means.new_zeros(rows, size)
    at = None if target is None else target.double().reshape(-1)
    probabilities = flat_means.new_tensor(list(levels))
    step = max(1, CHUNK // total)
    for low in range(0, size if rows else 0, step):
        high = min(low + step, size)
        both = torch.stack([flat_means[:, low:high], flat_stds[:, low:high]], 1)
        every = group.gather_over_samples(both.contiguous(), counts)
        mine = share(high - low, group.sample_size, group.sample_rank)
        mean, std = every[:, 0, mine.start : mine.stop], every[:, 1, mine.start : mine.stop]
        place = slice(low + mine.start, low + mine.stop)
        if len(mine) == 0:
            continue
        if levels:
            out[: len(levels), place] = (
                order_statistics(mean, probabilities)
                if alone
                else quantiles(mean, std, probabilities)
            )
        if at is not None:
            out[-1, place] = crps(mean, std, at[place])
    out = group.sum_over_samples(out)
    score = out[-1].reshape(shape) if target is not None else None
    return score, out[: len(levels)].reshape(len(levels), *shape)
