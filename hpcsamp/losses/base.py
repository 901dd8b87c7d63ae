"""Base classes of losses: functions of all S outputs that every rank evaluates exactly.

A loss is computed per item; masks, weights and true item counts are applied in one place
(:mod:`.elbo`). The **sum** over the sample group of the ranks' gradients is the gradient of the
sequential loss (design law 2).

To write a loss of your own, define a class with one or two hooks; it is exact on any grid::

    class SquaredBias(StatisticsLoss):                # any function of a mean over samples
        def statistics(self, outputs, target):        # (s, B, ...), of this rank's samples
            return outputs - target

        def from_mean(self, mean, target, samples):   # (B, ...), the mean is over all S samples
            return mean**2

or subclass :class:`LinearLoss`, or wrap any callable in :class:`~hpcsamp.losses.custom.Custom`.
:meth:`DataLoss.predictive` defines which observation noise an evaluation assumes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor

from hpcsamp.collectives import Collectives
from hpcsamp.errors import UsageError
from hpcsamp.losses.about import About
from hpcsamp.losses.batch import Step
from hpcsamp.losses.class_weights import ClassWeights
from hpcsamp.losses.likelihoods import Likelihood, Samples
from hpcsamp.losses.values import fit_weight, over_values, wide


class DataLoss(ABC):
    """Base class of data losses, functions of the outputs of all samples.

    Parameters
    ----------
    weights
        Weight of each value of an item, broadcastable to the item's shape: e.g.
        :func:`~hpcsamp.losses.values.latitude_weights`. In a density, the factor of a value is
        raised to the power of its weight.

    Attributes
    ----------
    about
        Description of the loss, see :class:`~hpcsamp.losses.about.About`.
    linear
        Whether the loss is the mean over samples of a function of one sample. Such a loss needs no
        exchange, and samples may be back-propagated one at a time.
    joint
        Whether the loss also weighs samples by their prior and posterior densities, so that no
        penalty is added to it.
    least_samples
        The smallest S for which the loss is defined.
    likelihood
        The observation model, in losses that use one.
    class_weights
        Weights of values by their labels, or None.
    size
        Number of outputs per item that the network must have; None where only the likelihood
        determines it.
    usual_likelihood
        Name of the default likelihood of this loss; None for the default of the task.
    by_values
        Whether the loss treats each value of an item separately until
        :func:`~hpcsamp.losses.values.over_values` sums over them. Each rank of a model axis may
        then hold only part of the values; otherwise outputs are gathered first.
    gathers
        Whether outputs are gathered in any case, because targets have a different shape.
    """

    about: ClassVar[About | None] = None
    linear: bool = False
    joint: bool = False
    least_samples: int = 1
    usual_likelihood: ClassVar[str | None] = None
    by_values: ClassVar[bool] = False
    gathers: bool = False
    weights: Tensor | None = None
    likelihood: Likelihood
    class_weights: ClassWeights | None = None
    size: int | None = None

    def __init__(self, *, weights: Tensor | None = None) -> None:
        self.weights = weights

    def __init_subclass__(cls) -> None:
        # not inherited: a subclass may also combine values
        cls.by_values = vars(cls).get("by_values", False)
        if "about" in vars(cls) and cls.about is not None:
            cls.__doc__ = f"{(cls.__doc__ or '').rstrip()}\n\n{cls.about}"

    def __call__(
        self,
        outputs: Tensor,
        target: Tensor,
        samples: int,
        group: Collectives,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Return the loss of each item.

        Parameters
        ----------
        outputs
            ``(s, B, ...)``, the outputs of this rank's samples. Half-precision outputs are widened
            to float32 first.
        target
            ``(B, ...)``.
        samples
            ``S``, the number of samples of the whole sample group.
        group
            The collectives of the sample group; :class:`~hpcsamp.collectives.Alone` for a single
            process.
        mask
            Weight of each value, or False for unknown values, broadcastable to ``target`` with as
            many axes. The target may hold anything, even NaN, where the mask is 0.

        Returns
        -------
        Tensor
            ``(B,)``: the group's value on every rank, with gradients of this rank's samples only.

        Raises
        ------
        UsageError
            If outputs, target and weights do not fit each other.
        """
        numbers = outputs.shape[2:].numel()
        if self.size is not None and numbers != self.size:
            raise UsageError(
                f"the network has {numbers} outputs per item, of shape {tuple(outputs.shape[2:])}; "
                f"the labels of the dataset need {self.size}"
            )
        target, weight = self.fit(target, mask)
        return self.items(wide(outputs), target, samples, group, weight)

    def predictive(self) -> Likelihood:
        """Return the distribution of an observation given the output of a sample, for evaluations.

        This is the likelihood of the loss, if it has one. Losses that score the samples themselves,
        or make no assumption about the noise, return :class:`~hpcsamp.losses.likelihoods.Samples`.
        The width of a :class:`~hpcsamp.losses.likelihoods.FittedGaussian` is estimated after
        training.
        """
        own: Likelihood | None = getattr(self, "likelihood", None)
        return own or Samples(
            f"none: the samples are the distribution, as {type(self).__name__} has no likelihood"
        )

    def fit(self, target: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return the target with masked values set to 0, and the weight of each of its values."""
        weight = fit_weight(target, self.weights, mask)
        if weight is not None:  # 0 times NaN is NaN
            target = target.masked_fill(weight == 0, 0)
        if self.class_weights is not None:
            by_class = self.class_weights(target)
            weight = by_class if weight is None else weight * by_class
        return target, weight

    @property
    def takes_parts(self) -> bool:
        """Whether each model rank may pass only its part of the values of outputs and targets.

        See :attr:`by_values`. The likelihood must also treat each value separately and read one
        output of the network for it (parameters learnt beside a network are split like the values).
        """
        own: Likelihood | None = getattr(self, "likelihood", None)
        plain = own is None or (
            type(own).log_prob is Likelihood.log_prob
            and own.parameters - own.beside == 1
            and not own.of_labels
        )
        by_values = type(self).by_values and not self.gathers
        return by_values and plain and self.class_weights is None

    @abstractmethod
    def items(
        self,
        outputs: Tensor,
        target: Tensor,
        samples: int,
        group: Collectives,
        weight: Tensor | None,
    ) -> Tensor:
        """Return ``(B,)`` losses; :meth:`__call__` has checked and widened the arguments.

        ``weight`` has the shape of ``target``, or is None.
        """

    def of_step(
        self,
        outputs: Tensor,
        step: Step,
        samples: int,
        group: Collectives,
        log_ratio: Tensor | None,
    ) -> Tensor:
        """Return the mean over the items of a step, a scalar. ``log_ratio`` is for joint losses.

        Raises
        ------
        UsageError
            If there are several outputs or targets and this loss takes one.
        """
        self.check_single(step)
        return step.mean(self(outputs, step.target, samples, group, step.mask))

    def check_single(self, step: Step) -> None:
        """Refuse several outputs or targets, for a loss that takes one.

        Raises
        ------
        UsageError
            If there are several; the message names them.
        """
        kind = type(self).__name__
        if step.targets:
            raise UsageError(
                f"{kind} takes one target, but there are {', '.join(step.targets)}; use "
                f"hs.losses.Several with a loss for each of them"
            )
        if step.outputs is not None:
            raise UsageError(
                f"{kind} takes one output, the network returns {', '.join(step.outputs.names)}; "
                f'select one by model.output = "..." or return it alone, or use hs.losses.Several'
            )


class LinearLoss(DataLoss):
    """Base class of losses that are a mean over samples; subclasses define the loss of a sample."""

    linear = True

    @abstractmethod
    def per_sample(self, outputs: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """Return ``(s, B)`` losses of ``(s, B, ...)`` outputs."""

    def items(
        self,
        outputs: Tensor,
        target: Tensor,
        samples: int,
        group: Collectives,
        weight: Tensor | None,
    ) -> Tensor:
        """Return ``(B,)`` losses, see :meth:`DataLoss.items`."""
        return group.sum_over_samples(self.per_sample(outputs, target, weight).sum(0) / samples)


class StatisticsLoss(DataLoss):
    """Base class of losses that are a function of a mean over samples, defined by two hooks.

    Each step needs one exchange, of the size of the statistics of one sample.
    """

    #: Whether the values of an item are averaged (a score in units of the target) or summed (nats).
    average: bool = False

    @abstractmethod
    def statistics(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Return statistics ``(s, ...)`` of the outputs ``(s, B, ...)`` of this rank's samples."""

    @abstractmethod
    def from_mean(self, mean: Tensor, target: Tensor, samples: int) -> Tensor:
        """Return losses ``(B, ...)`` of values or ``(B,)`` of items from the mean over samples.

        Losses in the shape of the target are weighted and reduced to one number per item.
        """

    def items(
        self,
        outputs: Tensor,
        target: Tensor,
        samples: int,
        group: Collectives,
        weight: Tensor | None,
    ) -> Tensor:
        """Return ``(B,)`` losses, see :meth:`DataLoss.items`."""
        mean = group.sum_over_samples(self.statistics(outputs, target).sum(0)) / samples
        each = self.from_mean(mean, target, samples)
        return over_values(each, weight, average=self.average)
