"""Losses that depend on the mean and variance of the outputs over samples."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hpcsamp.collectives import Collectives
from hpcsamp.errors import UsageError
from hpcsamp.losses.about import About, Shared
from hpcsamp.losses.base import DataLoss, StatisticsLoss
from hpcsamp.losses.likelihoods import FittedGaussian, Gaussian, Likelihood, Samples
from hpcsamp.losses.values import like_target, over_values


class MeanMSE(StatisticsLoss):
    """Squared error of the mean over samples, averaged over the values of an item."""

    about = About(
        formula="(mean_s y_s - t)^2",
        kind="moments",
        exchanges=(Shared("sum of the outputs", 4, "BV"),),
        cost="O(S) a value",
        source="the paper's section 4.1",
    )
    by_values = True
    average = True

    def predictive(self) -> Likelihood:
        """Return a normal distribution of constant width, estimated after training."""
        return FittedGaussian()

    def statistics(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Return the errors of the samples; their sum is rounded less than a sum of the outputs."""
        return like_target(outputs, target) - target

    def from_mean(self, mean: Tensor, target: Tensor, samples: int) -> Tensor:
        """Return the square of the mean error."""
        return mean**2


def centred_moments(y: Tensor, samples: int, group: Collectives) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and centred sum of squares over all samples of the group, well conditioned.

    Two exchanges: first a centre c (the mean up to rounding; constant for the gradient), then the
    sums of ``d = y - c`` and ``d^2``. Chan's correction ``sum d^2 - (sum d)^2 / S`` removes the
    rounding error of the centre, so a mean of 300 with a std of 1e-3 is accurate in float32, where
    the plain sum of squares loses all digits. Ranks may hold a single sample.

    Parameters
    ----------
    y
        ``(s, ...)``, this rank's samples.
    samples
        ``S``.

    Returns
    -------
    tuple
        c, ``mean - c``, and ``sum_s (y_s - mean)^2``, ``(...)`` each. (Chan, Golub & LeVeque 1983,
        eqs. 1.7 and 2.1.)
    """
    centre = group.sum_over_samples(y.detach().sum(0)) / samples
    d = y - centre
    shift, square = group.sum_over_samples(torch.stack([d.sum(0), (d * d).sum(0)]))
    return centre, shift / samples, square - shift * shift / samples


class GaussianMomentsNLL(DataLoss):
    """Negative log density of a normal with the mean and unbiased variance of the S outputs.

    torch_blue's ``MeanFieldNormal`` as predictive distribution. It needs S >= 2 in the group; a
    single rank may hold fewer samples.

    Parameters
    ----------
    noise
        Known standard deviation of observations, added in quadrature, in units of the target.
    eps
        Added to the variance, as in torch_blue.

    Raises
    ------
    UsageError
        If ``noise`` or ``eps`` is negative.
    """

    about = About(
        formula="-log N(t; mean_s y_s, std_s y_s)",
        kind="moments",
        exchanges=(Shared("mean", 4, "BV"), Shared("centred sums", 8, "BV")),
        cost="O(S) a value",
        source="torch_blue's MeanFieldNormal; Chan, Golub & LeVeque 1983",
    )
    by_values = True
    least_samples = 2

    def __init__(
        self, noise: float = 0.0, eps: float = 1e-10, *, weights: Tensor | None = None
    ) -> None:
        super().__init__(weights=weights)
        for name, value in (("noise", noise), ("eps", eps)):
            if not value >= 0 or math.isinf(value):
                raise UsageError(f"{name} of gaussian_moments_nll must be >= 0, got {value}")
        self.noise, self.eps = noise, eps
        if noise > 0:
            self.least_samples = 1

    def predictive(self) -> Likelihood:
        """Return a normal with the known noise; without noise, :class:`Samples`."""
        return Gaussian(self.noise) if self.noise > 0 else Samples()

    def items(
        self,
        outputs: Tensor,
        target: Tensor,
        samples: int,
        group: Collectives,
        weight: Tensor | None,
    ) -> Tensor:
        """Return ``(B,)`` losses, see :meth:`DataLoss.items`."""
        y = like_target(outputs, target)
        centre, shift, square = centred_moments(y, samples, group)
        variance = square / max(samples - 1, 1) + (self.noise**2 + self.eps)
        error = target - centre - shift
        nll = 0.5 * (error**2 / variance + variance.log() + math.log(2 * math.pi))
        return over_values(nll, weight)
