"""The posterior predictive of a batch, from samples spread over the ranks of a sample group."""

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
    """The predictive distribution over classes.

    Attributes
    ----------
    log_probabilities
        ``(B, ..., C)``, log of the mean over all S samples of the class probabilities; one
        distribution for each value of a target.
    aleatoric
        ``(B, ...)`` nats, mean over samples of each sample's entropy. The entropy of the mean is
        the total uncertainty, the difference (the mutual information of label and weights) the
        epistemic one (Depeweg et al. 2018).
    own
        ``(s, B, ..., C)``, log probabilities of this rank's samples.
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
    """The predictive distribution of real targets.

    Attributes
    ----------
    mean
        ``(B, ...)``.
    aleatoric, epistemic
        ``(B, ...)`` variances: mean of the samples' variances, variance of their means (law of
        total variance; their sum is the predictive variance).
    log_density
        ``(B,)`` nats, log density of the targets under the mixture of all S samples; None if the
        samples alone are the distribution, which has no density then.
    pit
        Two of ``(B, ...)``: the mixture's distribution function just below the targets and at them,
        which differ where the distribution is discrete; None if it is not known. With samples
        alone they are ``r / (S + 1)`` and ``(r + t + 1) / (S + 1)``, where r of S samples are below
        the target and t equal to it: the rank of a target among S + 1 exchangeable draws.
    own_means, own_stds
        ``(s, B, ...)`` of this rank's samples: the components of the mixture.
    """

    mean: Tensor
    aleatoric: Tensor
    epistemic: Tensor
    log_density: Tensor | None
    pit: tuple[Tensor, Tensor] | None
    own_means: Tensor
    own_stds: Tensor


def entropy(log_p: Tensor) -> Tensor:
    """``(...)`` nats, entropy of distributions ``(..., C)`` from their log probabilities."""
    return -(log_p.exp() * _finite(log_p)).sum(-1)


def _finite(log_p: Tensor) -> Tensor:
    """Log probabilities, those of 0 as a number: times 0 it is 0."""
    return log_p.clamp(min=torch.finfo(log_p.dtype).min)


def class_prediction(log_p: Tensor, samples: int, group: Collectives) -> ClassPrediction:
    """From log probabilities ``(s, B, ..., C)`` of this rank's samples. Collective."""
    each, shift = shifted_exp(log_p, group)  # both sums take the exponentials of one pass
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
    """Predictive moments of ``(B, ...)`` inputs, and where ``y`` lies in them. Collective.

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
    """From the outputs ``(s, B, ...)`` of this rank's samples. Collective.

    ``mask``: False for values of ``y`` that are not known, which have no part in the density.
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
