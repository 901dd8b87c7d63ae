"""The posterior predictive of a batch, from samples spread over the ranks of a sample group."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hpcsamp.collectives import Collectives
from hpcsamp.losses import Likelihood, Samples, centred_moments, log_mean_exp
from hpcsamp.methods import Method
from hpcsamp.tasks.components import distribution_function


@dataclass
class ClassPrediction:
    """The predictive distribution over classes.

    Attributes
    ----------
    log_probabilities
        ``(B, C)``, log of the mean over all S samples of the class probabilities.
    aleatoric
        ``(B,)`` nats, mean over samples of each sample's entropy. The entropy of the mean is the
        total uncertainty, the difference (the mutual information of label and weights) the
        epistemic one (Depeweg et al. 2018).
    own
        ``(s, B, C)``, log probabilities of this rank's samples.
    """

    log_probabilities: Tensor
    aleatoric: Tensor
    own: Tensor

    @property
    def total(self) -> Tensor:
        """``(B,)`` nats, entropy of the predictive distribution."""
        return torch.special.entr(self.log_probabilities.exp()).sum(-1)


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


def local_outputs(
    method: Method, x: Tensor, samples: int, group: Collectives, index: Tensor | None = None
) -> Tensor:
    """``(s, B, ...)`` outputs of this rank's share of ``samples`` prediction samples.

    ``index``: ``(B,)`` positions of the items in their split, see :meth:`Method.forward`.
    """
    mine = method.prediction_share(samples, group.sample_size, group.sample_rank)
    with torch.no_grad(), method.predicting():
        return method(x, samples=mine, step=0, index=index)


def sample_counts(method: Method, samples: int, group: Collectives) -> list[int]:
    """How many prediction samples each rank of the sample group evaluates. Collective."""
    mine = method.prediction_share(samples, group.sample_size, group.sample_rank)
    counts = torch.zeros(group.sample_size, dtype=torch.float64)
    counts[group.sample_rank] = len(mine)
    if group.sample_size > 1:
        group.sum_(counts, "sample")
    return [int(n) for n in counts.tolist()]


def predict_classes(
    method: Method, x: Tensor, samples: int, group: Collectives, index: Tensor | None = None
) -> ClassPrediction:
    """Predictive class probabilities of ``(B, ...)`` inputs. Collective over the sample group.

    ``index``: as in :func:`local_outputs`.
    """
    logits = local_outputs(method, x, samples, group, index)
    log_p = torch.log_softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)), -1)
    entropy = torch.special.entr(log_p.exp()).sum(-1)
    return ClassPrediction(
        log_mean_exp(log_p, samples, group),
        group.sum_over_samples(entropy.sum(0)) / samples,
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

    ``index``: as in :func:`local_outputs`.
    """
    outputs = local_outputs(method, x, samples, group, index)
    means, noise = likelihood.moments(outputs, y)
    centre, shift, square = centred_moments(means, samples, group)
    alone = isinstance(likelihood, Samples)
    density = likelihood.log_prob(outputs, y) if not alone else None
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
