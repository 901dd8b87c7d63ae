"""The posterior predictive of a batch, from samples spread over the ranks of a sample group."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hpcsamp.collectives import Collectives
from hpcsamp.losses import Likelihood, centred_moments, log_mean_exp
from hpcsamp.methods import Method


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
    """

    log_probabilities: Tensor
    aleatoric: Tensor


@dataclass
class ValuePrediction:
    """The predictive distribution of real targets: its first two moments and its log density.

    Attributes
    ----------
    mean
        ``(B, ...)``.
    aleatoric, epistemic
        ``(B, ...)`` variances: mean of the samples' variances, variance of their means (law of
        total variance; their sum is the predictive variance).
    log_density
        ``(B,)`` nats, log density of the targets under the mixture of all S samples.
    """

    mean: Tensor
    aleatoric: Tensor
    epistemic: Tensor
    log_density: Tensor


def local_outputs(
    method: Method, x: Tensor, samples: int, group: Collectives, index: Tensor | None = None
) -> Tensor:
    """``(s, B, ...)`` outputs of this rank's share of ``samples`` prediction samples.

    ``index``: ``(B,)`` positions of the items in their split, see :meth:`Method.forward`.
    """
    mine = method.prediction_share(samples, group.sample_size, group.sample_rank)
    with torch.no_grad(), method.predicting():
        return method(x, samples=mine, step=0, index=index)


def predict_classes(method: Method, x: Tensor, samples: int, group: Collectives) -> ClassPrediction:
    """Predictive class probabilities of ``(B, ...)`` inputs. Collective over the sample group."""
    logits = local_outputs(method, x, samples, group)
    log_p = torch.log_softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)), -1)
    entropy = -(log_p.exp() * log_p).sum(-1)
    return ClassPrediction(
        log_mean_exp(log_p, samples, group),
        group.sum_over_samples(entropy.sum(0)) / samples,
    )


def predict_values(
    method: Method, x: Tensor, y: Tensor, samples: int, group: Collectives, likelihood: Likelihood
) -> ValuePrediction:
    """Predictive moments of ``(B, ...)`` inputs, and the density of ``y``. Collective."""
    outputs = local_outputs(method, x, samples, group)
    means, noise = likelihood.moments(outputs, y)
    centre, shift, square = centred_moments(means, samples, group)
    return ValuePrediction(
        centre + shift,
        group.sum_over_samples(noise.sum(0)) / samples,
        square / samples,
        log_mean_exp(likelihood.log_prob(outputs, y), samples, group),
    )
