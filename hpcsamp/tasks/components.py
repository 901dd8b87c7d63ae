"""Components of the predictive mixture: the distribution of a value given one weight sample."""

from __future__ import annotations

import torch
from torch import Tensor

from hpcsamp.losses import (
    Gaussian,
    Likelihood,
    NegativeBinomial,
    Poisson,
    PredictedGaussian,
    Samples,
    StudentT,
)
from hpcsamp.losses.values import like_target, wide
from hpcsamp.metrics.mixtures import normal_cdf


def normal_components(likelihood: Likelihood) -> bool:
    """Whether each component is a normal distribution or a point, given by its two moments."""
    return isinstance(likelihood, Gaussian | PredictedGaussian | Samples)


def distribution_function(
    likelihood: Likelihood, outputs: Tensor, target: Tensor
) -> tuple[Tensor, Tensor] | None:
    """Compute ``P(value < target)`` and ``P(value <= target)`` given the outputs of each sample.

    Returns
    -------
    tuple or None
        ``(s, *target.shape)`` float64 each, the same tensor twice if the distribution is
        continuous. None for likelihoods whose distribution function is not implemented.
    """
    at = target.double()
    if isinstance(likelihood, Samples):
        mean = likelihood.moments(outputs, target)[0].double()
        return (mean < at).double(), (mean <= at).double()
    if isinstance(likelihood, Gaussian | PredictedGaussian):
        mean, variance = likelihood.moments(outputs, target)
        u = normal_cdf(mean.double(), variance.double().sqrt(), at)
        return u, u
    if isinstance(likelihood, StudentT):
        from scipy import special  # comes with scikit-learn

        z = (at - like_target(wide(outputs), target).double()) / likelihood.scale
        u = torch.from_numpy(special.stdtr(likelihood.df, z.cpu().numpy())).to(z.device)
        return u, u
    if isinstance(likelihood, NegativeBinomial):
        from scipy import special

        mean = likelihood.moments(outputs, target)[0].double()
        size = likelihood.size_of(outputs, target).double()
        at = at.expand_as(mean)

        def below(k: Tensor) -> Tensor:
            """``P(value <= k)``, which is 0 for k = -1."""
            part = special.betainc(
                *(t.cpu().numpy() for t in (size, k.clamp_min(0) + 1, size / (size + mean)))
            )
            return torch.where(k >= 0, torch.from_numpy(part).to(k.device), 0.0)

        return below(at - 1), below(at)
    if isinstance(likelihood, Poisson):
        rate = likelihood.moments(outputs, target)[0].double()
        at = at.expand_as(rate)
        up_to = torch.special.gammaincc(at + 1, rate)
        before = torch.where(at > 0, torch.special.gammaincc(at.clamp_min(1e-300), rate), 0.0)
        return before, up_to
    return None
