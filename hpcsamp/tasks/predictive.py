"""Posterior predictive distribution of a batch from samples spread over a sample group."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hpcsamp.collectives import Collectives
from hpcsamp.losses import Likelihood, Samples, centred_moments, log_mean_exp
from hpcsamp.losses.likelihoods import log_prob_of
from hpcsamp.losses.mixture import log_of_sum, shifted_exp
from hpcsamp.methods import Method
from hpcsamp.tasks.components import distribution_function
from hpcsamp.tasks.outputs import local_outputs


@dataclass
class ClassPrediction:
    """Predictive distribution over classes.

    Attributes
    ----------
    log_probabilities
        ``(B, ..., C)``, log of the class probabilities averaged over all S samples; one
        distribution for each value of a target.
    aleatoric
        ``(B, ...)`` nats, entropy of each sample's distribution, averaged over samples. The entropy
        of the mean is the total uncertainty; the difference, the mutual information of label and
        weights, is the epistemic uncertainty (Depeweg et al. 2018).
    own
        ``(s, B, ..., C)``, log probabilities under this rank's samples.
    """

    log_probabilities: Tensor
    aleatoric: Tensor
    own: Tensor

    @property
    def total(self) -> Tensor:
        """``(B, ...)`` nats, entropy of the predictive distribution."""
        return entropy(self.log_probabilities)


@dataclass
class ValuePrediction:
    """Predictive distribution of real-valued targets.

    Attributes
    ----------
    mean
        ``(B, ...)`` predictive mean.
    aleatoric, epistemic
        ``(B, ...)`` variances: the mean of the samples' variances and the variance of their means.
        Their sum is the predictive variance (law of total variance).
    log_density
        ``(B,)`` nats, log density of the targets under the mixture of all S samples; None if the
        samples alone are the distribution, because it has no density then.
    pit
        Two tensors ``(B, ...)``: the distribution function of the mixture just below the targets
        and at the targets, which differ if the distribution is discrete; None if it is not
        implemented. With samples alone they are ``r / (S + 1)`` and ``(r + t + 1) / (S + 1)``,
        where r of S samples are below the target and t equal it: the rank of the target among S + 1
        exchangeable draws.
    own_means, own_stds
        ``(s, B, ...)`` means and standard deviations of this rank's samples, which are components
        of the mixture.
    """

    mean: Tensor
    aleatoric: Tensor
    epistemic: Tensor
    log_density: Tensor | None
    pit: tuple[Tensor, Tensor] | None
    own_means: Tensor
    own_stds: Tensor


def entropy(log_p: Tensor) -> Tensor:
    """Entropy in nats, ``(...)``, of distributions ``(..., C)`` from their log probabilities."""
    return -(log_p.exp() * _finite(log_p)).sum(-1)


def _finite(log_p: Tensor) -> Tensor:
    """Replace log probabilities of -inf by a finite number, whose product with 0 is 0."""
    return log_p.clamp(min=torch.finfo(log_p.dtype).min)


def class_prediction(log_p: Tensor, samples: int, group: Collectives) -> ClassPrediction:
    """Average class probabilities over all samples. Collective.

    ``log_p``: ``(s, B, ..., C)`` log probabilities under this rank's samples.
    """
    each, shift = shifted_exp(log_p, group)  # both sums use the exponentials of one pass
    entropies = -((each * _finite(log_p)).sum(0) * shift.exp()).sum(-1)
    return ClassPrediction(
        log_of_sum(each, shift, samples, group),
        group.sum_over_samples(entropies) / samples,
        log_p,
    )


def predict_values(
    method: Method,
    x: Tensor,
    y: Tensor,
    samples: int,
    group: Collectives,
    likelihood: Likelihood,
    index: Tensor | None = None,
) -> ValuePrediction:
    """Compute predictive moments for inputs ``(B, ...)``, log density and PIT of ``y``. Collective.

    ``index``: as in :func:`~hpcsamp.tasks.outputs.local_outputs`.
    """
    outputs = local_outputs(method, x, samples, group, index)
    return value_prediction(outputs, y, samples, group, likelihood)


def value_prediction(
    outputs: Tensor,
    y: Tensor,
    samples: int,
    group: Collectives,
    likelihood: Likelihood,
    mask: Tensor | None = None,
) -> ValuePrediction:
    """Compute the predictive distribution from this rank's outputs ``(s, B, ...)``. Collective.

    ``mask``: False where a value of ``y`` is missing; such values do not enter the density.
    """
    if mask is not None:
        y = y.masked_fill(~mask, 0)
    means, noise = likelihood.moments(outputs, y)
    centre, shift, square = centred_moments(means, samples, group)
    alone = isinstance(likelihood, Samples)
    density = log_prob_of(likelihood, outputs, y, mask) if not alone else None
    return ValuePrediction(
        mean=centre + shift,
        aleatoric=group.sum_over_samples(noise.sum(0)) / samples,
        epistemic=square / samples,
        log_density=None if density is None else log_mean_exp(density, samples, group),
        pit=_pit(likelihood, outputs, y, samples, group),
        own_means=means,
        own_stds=noise.sqrt(),
    )


def _pit(
    likelihood: Likelihood, outputs: Tensor, y: Tensor, samples: int, group: Collectives
) -> tuple[Tensor, Tensor] | None:
    """See :attr:`ValuePrediction.pit`."""
    each = distribution_function(likelihood, outputs, y)
    if each is None:
        return None
    below, up_to = each
    if below is up_to:
        u = group.sum_over_samples(below.sum(0)) / samples
        return u, u
    low, high = group.sum_over_samples(torch.stack([below.sum(0), up_to.sum(0)]))
    if isinstance(likelihood, Samples):
        return low / (samples + 1), (high + 1) / (samples + 1)
    return low / samples, high / samples
