"""Observation models of counts (whole numbers of at least 0)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from hpcsamp.losses.likelihoods import Likelihood
from hpcsamp.losses.values import like_target, wide


class Poisson(Likelihood):
    """Poisson distribution of counts: outputs are log rates, ``log p = t y - exp(y) - log t!``."""

    def of_values(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Return ``(s, B, ...)`` log probabilities."""
        log_rate = like_target(outputs, target)
        counts = target.to(log_rate.dtype)
        return counts * log_rate - log_rate.exp() - torch.lgamma(counts + 1)

    def moments(self, outputs: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance, both equal to the rate."""
        rate = like_target(wide(outputs), target).exp()
        return rate, rate


class NegativeBinomial(Likelihood):
    """Negative binomial distribution of counts: mean and overdispersion are both predicted.

    The first half of an item's outputs are log means ``log m``, the second half are log sizes
    ``log r``: the variance is ``m + m^2 / r``; for large r this is a Poisson distribution::

        log p = log G(t + r) - log G(r) - log t! + r log(r / (r + m)) + t log(m / (r + m))
    """

    parameters = 2
    source = "predicted by the network"

    def of_values(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Return ``(s, B, ...)`` log probabilities."""
        log_mean, log_size = like_target(wide(outputs), target, 2)
        kind = log_mean.dtype
        # differences of large numbers: float32 would lose all digits for large r
        log_mean, log_size = log_mean.double(), log_size.double()
        t, size = target.double(), log_size.exp()
        ways = torch.lgamma(t + size) - torch.lgamma(size) - torch.lgamma(t + 1)
        odds = log_mean - log_size
        return (ways - size * F.softplus(odds) - t * F.softplus(-odds)).to(kind)

    def moments(self, outputs: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Mean ``m`` and variance ``m + m^2 / r``."""
        log_mean, log_size = like_target(wide(outputs), target, 2)
        mean = log_mean.exp()
        return mean, mean + (2 * log_mean - log_size).exp()

    def size_of(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Return the predicted sizes r, shape ``(s, *target.shape)``."""
        return like_target(wide(outputs), target, 2)[1].exp()
