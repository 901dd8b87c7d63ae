"""Empirical Bayes: normal priors whose variances are learnt, one for each layer.

    v_l^2 = mean over the weights i of layer l of (mean_i - m)^2 + std_i^2

This is the variance of the prior ``N(m, v_l^2)`` at which the ELBO is largest for a given posterior
(Graves 2011, "Practical Variational Inference for Neural Networks", section 4.2). It is computed
from the current posterior in each step, so it is no state of a run. Because the derivative of the
ELBO with respect to ``v_l`` is zero there, the gradient with ``v_l`` held fixed is that of the ELBO
with the best ``v_l``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from hpcsamp.methods.normal import Span, blocks, section
from hpcsamp.weights.layout import Learned

Spans = Sequence[tuple[int, int, Learned | tuple[float, float] | None]]
"""Start, stop and prior of each run of weights in a flat vector."""


def fitted(
    spans: Spans,
    mean: Tensor,
    log_std: Tensor,
    first: int,
    sum_: Callable[[Tensor], None],
) -> list[Span]:
    """Return spans with the mean and log standard deviation of each learnt prior at its optimum.

    Parameters
    ----------
    spans
        Priors of all weights.
    mean, log_std
        ``(n,)`` parameters of the posterior, without gradient; or the share of this rank.
    first
        Index of their first element in the flat vector of the spans.
    sum_
        Sums a tensor over the ranks that hold other weights of the same layers, in place.
    """
    learned = [(a, b, prior) for a, b, prior in spans if isinstance(prior, Learned)]
    rows = {prior: row for row, prior in enumerate(dict.fromkeys(prior for *_, prior in learned))}
    log_stds: list[float] = []
    if rows:  # else a GPU is not waited for
        sums = torch.zeros(len(rows), 2, dtype=torch.float64, device=mean.device)
        for own, prior in blocks(section(learned, first, first + len(mean), first)):
            squares = (mean[own] - prior.mean).square_() + (2 * log_std[own]).exp_()
            sums[rows[prior], 0] += squares.sum(dtype=torch.float64)
            sums[rows[prior], 1] += len(squares)
        sum_(sums)
        log_stds = (sums[:, 0] / sums[:, 1]).log().mul(0.5).tolist()
    return [
        (a, b, (prior.mean, log_stds[rows[prior]]) if isinstance(prior, Learned) else prior)
        for a, b, prior in spans
    ]
