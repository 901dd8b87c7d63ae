"""Observation models: log p(target | output), for each output and item.

The values of an item are independent given the output: their log densities are summed, with their
weights. Each class defines how the outputs of a model are read.

Labels are in :mod:`.labels`, counts in :mod:`.counts`. A likelihood of your own needs
``of_values``, or ``log_prob`` where an item is one event, and ``moments`` if it has a mean and
variance.
"""

from __future__ import annotations

import inspect
import math
from abc import ABC
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from hpcsamp.errors import UsageError
from hpcsamp.losses.values import fit_weight, like_target, over_values, wide
from hpcsamp.models.learned_noise import LearnedNoise


class Likelihood(ABC):  # noqa: B024
    """Base class of observation models, ``log p(target | output)``.

    Attributes
    ----------
    parameters
        Number of parameters that it reads for each target value (apart from classes).
    beside
        Number of these parameters that are learnt beside the network instead of being its outputs
        (:meth:`complete`).
    source
        Origin of the observation noise, for the records of evaluations.
    of_labels
        Whether targets are class labels; otherwise they are numeric.
    joint
        Whether the values of an item are one event, whose density under the predictive mixture is
        the mean over samples of the product over values. Else each value (a pixel, a label) is an
        event, and the mean over samples is taken value by value, in losses and metrics alike.
    """

    parameters: int = 1
    of_labels: bool = False
    joint: bool = True
    beside: int = 0
    source: str = "the likelihood of the loss"

    def size(self, shape: tuple[int, ...], classes: int | None) -> int:
        """Return the number of outputs per item that a target of this shape needs."""
        return math.prod(shape) * (self.parameters if classes is None else classes)

    def of_values(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Return ``(s, B, ...)`` log densities of the values, in nats.

        Raises
        ------
        UsageError
            If the class only defines the density of a whole item (:meth:`log_prob`).
        """
        raise UsageError(
            f"the likelihood {type(self).__name__} only defines log_prob, the density of a whole "
            f"item; weights, masks and mixtures of values need of_values(outputs, target)"
        )

    def complete(self, network: nn.Module, std: Any, mean: Any) -> nn.Module:
        """Return the network, extended by the parameters that are learnt beside it.

        ``std`` and ``mean`` are those of the training targets, in the shape of a target.
        """
        return network

    def log_prob(self, outputs: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """Return ``(s, B)`` log densities in nats of outputs ``(s, B, ...)``, targets ``(B, ...)``.

        ``weight``: exponent of each value's factor, broadcastable to the target, or None.

        Raises
        ------
        UsageError
            If the number of outputs of an item does not fit the target.
        """
        each = self.of_values(wide(outputs), target)
        return over_values(each, fit_weight(target, None, weight), lead=2)

    def moments(self, outputs: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``(s, *target.shape)`` mean and variance of the observation given the output.

        Raises
        ------
        UsageError
            If the distribution has no mean and variance.
        """
        raise UsageError(f"a {type(self).__name__} likelihood has no mean and variance")

    def log_probabilities(self, outputs: Tensor, target: Tensor, classes: int) -> Tensor:
        """Return ``(s, *target.shape, C)`` log probabilities of the labels ``0 .. C - 1``, in nats.

        For targets that are labels: each label in turn is used as the target.

        Parameters
        ----------
        outputs, target
            As in :meth:`log_prob`; only the shape of the target matters.
        classes
            ``C``.
        """
        outputs = wide(outputs)
        of = self.log_prob if target.dim() == 1 else self.of_values
        return torch.stack([of(outputs, torch.full_like(target, c)) for c in range(classes)], -1)


def log_prob_of(
    likelihood: Likelihood, outputs: Tensor, target: Tensor, weight: Tensor | None
) -> Tensor:
    """Call :meth:`Likelihood.log_prob`, which a user's class may define without weights.

    Raises
    ------
    UsageError
            If it is defined without weights and weights are given.
    """
    if weight is None:
        return likelihood.log_prob(outputs, target)
    if len(inspect.signature(likelihood.log_prob).parameters) < 3:
        raise UsageError(
            f"the likelihood {type(likelihood).__name__} has log_prob(outputs, target), which "
            f"cannot apply weights or masks of values: define of_values instead"
        )
    return likelihood.log_prob(outputs, target, weight)


class Gaussian(Likelihood):
    """Normal with known standard deviation: ``N(target; output, std)``, shapes ``(s, B, ...)``.

    Parameters
    ----------
    std
        Standard deviation of the observation noise, in the units of the target; > 0.
    """

    source = "fixed"

    def __init__(self, std: float = 1.0) -> None:
        self.std = positive("noise std of a Gaussian likelihood", std)

    def of_values(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Return ``(s, B, ...)`` log densities."""
        square = ((like_target(outputs, target) - target) / self.std) ** 2
        return -0.5 * (square + (math.log(2 * math.pi) + 2 * math.log(self.std)))

    def moments(self, outputs: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Mean: the output; variance: that of the noise."""
        mean = like_target(wide(outputs), target)
        return mean, torch.full_like(mean, self.std**2)


class PredictedGaussian(Likelihood):
    """Normal whose mean and standard deviation are both outputs (heteroscedastic).

    The first half of an item's outputs are means, the second half are raw widths r, with
    ``std = floor + softplus(r)``.

    Parameters
    ----------
    floor
        Smallest standard deviation, in the units of the target; > 0.
    """

    parameters = 2
    source = "predicted by the network"

    def __init__(self, floor: float = 1e-6) -> None:
        self.floor = positive("floor of a predicted std", floor)

    def mean_and_std(self, outputs: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation, ``(s, *target.shape)`` each."""
        mean, raw = like_target(wide(outputs), target, 2)
        return mean, self.floor + F.softplus(raw)

    def of_values(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Return ``(s, B, ...)`` log densities."""
        mean, std = self.mean_and_std(outputs, target)
        return -0.5 * (((mean - target) / std) ** 2 + math.log(2 * math.pi)) - std.log()

    def moments(self, outputs: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance predicted by the outputs."""
        mean, std = self.mean_and_std(outputs, target)
        return mean, std**2


class LearnedGaussian(PredictedGaussian):
    """Normal whose standard deviation is learnt, one for each output and the same for all items.

    The outputs come from a network inside a :class:`~hpcsamp.models.LearnedNoise`: means, then log
    standard deviations.
    """

    beside = 1
    source = "learned"

    def __init__(self) -> None:
        super().__init__()

    def complete(self, network: nn.Module, std: Any, mean: Any) -> nn.Module:
        """Return the network inside a :class:`~hpcsamp.models.LearnedNoise`."""
        return LearnedNoise(network, std, mean)

    def mean_and_std(self, outputs: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation, ``(s, *target.shape)`` each."""
        if outputs[0].numel() == target.numel():
            raise UsageError(
                "the likelihood learned_gaussian reads a standard deviation beside each output: "
                "wrap the network in hs.LearnedNoise(network, std, mean), or set a fixed std for "
                "the noise"
            )
        mean, log_std = like_target(wide(outputs), target, 2)
        return mean, log_std.exp()


class StudentT(Likelihood):
    """Student's t around the output: the loss of outliers grows logarithmically, not quadratically.

    Parameters
    ----------
    df
        Degrees of freedom; > 0.
    scale
        Scale in the units of the target; > 0.
    """

    def __init__(self, df: float = 4.0, scale: float = 1.0) -> None:
        self.df = positive("df of a Student-t likelihood", df)
        self.scale = positive("scale of a Student-t likelihood", scale)

    def of_values(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Return ``(s, B, ...)`` log densities."""
        df = self.df
        z = (like_target(outputs, target) - target) / self.scale
        constant = math.lgamma((df + 1) / 2) - math.lgamma(df / 2)
        constant -= 0.5 * math.log(df * math.pi) + math.log(self.scale)
        return constant - 0.5 * (df + 1) * torch.log1p(z**2 / df)

    def moments(self, outputs: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Mean: the output; variance: ``scale^2 df / (df - 2)``, infinite for df <= 2."""
        mean = like_target(wide(outputs), target)
        variance = self.scale**2 * self.df / (self.df - 2) if self.df > 2 else math.inf
        return mean, torch.full_like(mean, variance)


class Samples(Likelihood):
    """The outputs of the samples are the predictive distribution; there is no observation noise.

    Parameters
    ----------
    source
        The reason, for the records of evaluations.
    """

    def __init__(self, source: str = "none: the samples are the distribution") -> None:
        self.source = source

    def of_values(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Return NaN: points have no density."""
        return torch.full_like(like_target(outputs, target), torch.nan)

    def moments(self, outputs: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Mean: the output; variance: 0."""
        mean = like_target(wide(outputs), target)
        return mean, torch.zeros_like(mean)


class FittedGaussian(Gaussian):
    """Normal whose standard deviation is estimated after training, on the validation split.

    Parameters
    ----------
    std
        The estimate; None before it is made.
    source
        Origin of the estimate.
    """

    def __init__(self, std: float | None = None, source: str = "to be estimated") -> None:
        super().__init__(1.0 if std is None else std)
        self.fitted = std is not None
        self.source = source

    def of_values(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Return ``(s, B, ...)`` log densities; NaN before there is an estimate."""
        each = super().of_values(outputs, target)
        return each if self.fitted else torch.full_like(each, torch.nan)


def need_predicted(loss: str, likelihood: Likelihood | None) -> PredictedGaussian:
    """Return the likelihood of a loss that needs predicted widths.

    Raises
    ------
    UsageError
        If the likelihood is not a ``PredictedGaussian``.
    """
    if likelihood is None:
        return PredictedGaussian()
    if not isinstance(likelihood, PredictedGaussian):
        raise UsageError(
            f'{loss} needs the likelihood "predicted_gaussian", which predicts the width as an '
            f"output; got {type(likelihood).__name__}"
        )
    return likelihood


def positive(what: str, value: float) -> float:
    """Return the value; refuse it unless it is a finite number above 0."""
    if not value > 0 or math.isinf(value):
        raise UsageError(f"the {what} must be a number > 0, got {value}")
    return float(value)
