"""Negative log likelihood of the predictive mixture, exact over the sample group."""

from __future__ import annotations

import math

from torch import Tensor

from hpcsamp.collectives import Collectives
from hpcsamp.losses.base import DataLoss
from hpcsamp.losses.likelihoods import Likelihood


def log_mean_exp(log_p: Tensor, samples: int, group: Collectives) -> Tensor:
    """``log (1/S sum_s exp log_p_s)`` over all samples of the group.

    Parameters
    ----------
    log_p
        ``(s, ...)``, this rank's samples.
    samples
        ``S``.

    Returns
    -------
    Tensor
        ``(...)``. Two exchanges of that size: the maximum as a shift, then the sum.
    """
    shift = group.max_over_samples(log_p.max(0).values)
    total = group.sum_over_samples((log_p - shift).exp().sum(0))
    return total.log() + shift - math.log(samples)


class PredictiveNLL(DataLoss):
    r"""``-log mean_s p(t | y_s)``: the mixture of all S samples scored, not each sample.

    For classes this is the cross-entropy of the averaged probabilities, the case for which the
    paper notes that averaging gradients turns the arithmetic mean into a geometric one.

    Class: mixture. Communicated: maximum and sum, 2 B numbers a step. Source: section 4.1 of the
    paper.
    """

    def __init__(self, likelihood: Likelihood) -> None:
        self.likelihood = likelihood

    def __call__(self, outputs: Tensor, target: Tensor, samples: int, group: Collectives) -> Tensor:
        """``(B,)``, see :meth:`DataLoss.__call__`."""
        return -log_mean_exp(self.likelihood.log_prob(outputs, target), samples, group)
