"""What one weight sample says of a value: the component of the predictive mixture."""

from __future__ import annotations

import torch
from torch import Tensor

from hpcsamp.losses import Gaussian, Likelihood, Poisson, PredictedGaussian, StudentT
from hpcsamp.losses.values import like_target, wide
from hpcsamp.prediction.mixtures import normal_cdf


class Samples(Likelihood):
    """The outputs of the samples alone are the predictive distribution: there is no noise.

    For losses that score the samples themselves (``crps``, ``energy_score``).
    """

    def of_values(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Points have no density: NaN."""
        return torch.full_like(like_target(outputs, target), torch.nan)

    def moments(self, outputs: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """The output, and no variance."""
        mean = like_target(wide(outputs), target)
        return mean, torch.zeros_like(mean)


def normal_components(likelihood: Likelihood) -> bool:
    """Whether a component is a normal distribution or a point, told by its two moments."""
    return isinstance(likelihood, Gaussian | PredictedGaussian | Samples)


def distribution_function(likelihood: Likelihood, outputs: Tensor, target: Tensor) -> Tensor | None:
    """``P(value <= target | output)`` of each sample and value, ``(s, *target.shape)`` float64.

    Of counts the mean of ``P(value < t)`` and ``P(value <= t)``. None if the likelihood is of a
    kind that is not known here.
    """
    at = target.double()
    if isinstance(likelihood, Gaussian | PredictedGaussian | Samples):
        mean, variance = likelihood.moments(outputs, target)
        return normal_cdf(mean.double(), variance.double().sqrt(), at)
    if isinstance(likelihood, StudentT):
        from scipy import special  # comes with scikit-learn

        z = (at - like_target(wide(outputs), target).double()) / likelihood.scale
        return torch.from_numpy(special.stdtr(likelihood.df, z.cpu().numpy())).to(z.device)
    if isinstance(likelihood, Poisson):
        rate = likelihood.moments(outputs, target)[0].double()
        at = at.expand_as(rate)
        up_to = torch.special.gammaincc(at + 1, rate)
        before = torch.where(at > 0, torch.special.gammaincc(at.clamp_min(1e-300), rate), 0.0)
        return (up_to + before) / 2
    return None
