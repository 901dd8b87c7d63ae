"""What a data loss is: a function of all S outputs, evaluated by every rank from shared statistics.

Per item, so that masks, weights and true item counts are applied in one place (:mod:`.elbo`). The
**sum** over the sample group of the ranks' gradients is the gradient of the sequential loss
(law 2).

A loss of your own is a class with one or two hooks, and exact on any grid::

    class SquaredBias(StatisticsLoss):                # any function of a mean over samples
        def statistics(self, outputs, target):        # (s, B, ...), of this rank's samples
            return outputs - target

        def from_mean(self, mean, target, samples):   # (B, ...), the mean is over all S samples
            return mean**2

or :class:`LinearLoss`, or any callable as it is, by :class:`~hpcsamp.losses.custom.Custom`. What an
evaluation takes for the noise of observations is defined by :meth:`DataLoss.predictive`.
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
    """A loss of the outputs of all samples.

    Parameters
    ----------
    weights
        Weight of each value of an item, broadcastable to the item's shape: e.g.
        :func:`~hpcsamp.losses.values.latitude_weights`. For a density, a weight is the power of
        the value's factor.

    Attributes
    ----------
    about
        The facts, see :class:`~hpcsamp.losses.about.About`.
    linear
        Whether the loss is a mean over samples of something of each sample alone. Such a loss needs
        no exchange, and samples may be back-propagated one at a time.
    joint
        Whether the loss weighs samples by their densities as well, so that prior and posterior are
        part of it and there is no penalty beside it.
    least_samples
        The least S with which it says anything.
    likelihood
        The observation model, in losses that have one.
    class_weights
        Weights of values by their labels, or None.
    size
        Numbers per item that outputs must have; None where the likelihood alone decides.
    usual_likelihood
        Name of the likelihood it takes where none is named; None: the task's.
    by_values
        Whether all that it does with the values of an item, before
        :func:`~hpcsamp.losses.values.over_values` sums over them, it does with each by itself: the
        ranks of a model axis may then have some of them each. Else outputs are gathered first.
    gathers
        Whether outputs are gathered all the same, as targets do not have their shape.
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
        cls.by_values = vars(cls).get("by_values", False)  # of each class anew: it may do more
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
        """The loss of each item.

        Parameters
        ----------
        outputs
            ``(s, B, ...)``, the outputs of this rank's samples. Half-precision ones are widened to
            float32 first.
        target
            ``(B, ...)``.
        samples
            ``S``, over the whole sample group.
        group
            The exchange with the other ranks of the group; :class:`~hpcsamp.collectives.Alone` for
            a single process.
        mask
            Weight of each value, or False for those that are not known, broadcastable to
            ``target`` with as many axes. What stands in the target under a 0 does not matter.

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
                f"the labels of the set ask for {self.size}"
            )
        target, weight = self.fit(target, mask)
        return self.items(wide(outputs), target, samples, group, weight)

    def predictive(self) -> Likelihood:
        """The distribution of an observation given the outputs of a sample, for evaluations.

        The loss's likelihood, where it has one. A loss that scores the samples themselves has
        :class:`~hpcsamp.losses.likelihoods.Samples`, as has a loss that leaves open what noise is;
        :class:`~hpcsamp.losses.likelihoods.FittedGaussian` has its width estimated after training.
        """
        own: Likelihood | None = getattr(self, "likelihood", None)
        return own or Samples(
            f"none: the samples are the distribution, as {type(self).__name__} has no likelihood"
        )

    def fit(self, target: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The target without what is masked, and the weights of its values, in its shape."""
        weight = fit_weight(target, self.weights, mask)
        if weight is not None:  # 0 times NaN is NaN
            target = target.masked_fill(weight == 0, 0)
        if self.class_weights is not None:
            by_class = self.class_weights(target)
            weight = by_class if weight is None else weight * by_class
        return target, weight

    @property
    def takes_parts(self) -> bool:
        """Whether outputs and targets may come in parts, each model rank with some of the values.

        See :attr:`by_values`; a likelihood must treat each value by itself as well, and read one
        output of a network for it (what is learnt beside a network lies with the value).
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
        """``(B,)``, as :meth:`__call__`, which has checked and widened what comes in here.

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
        """Scalar: the mean over the items of a step. ``log_ratio`` is for joint losses.

        Raises
        ------
        UsageError
            If there are several outputs or targets, of which this loss knows nothing.
        """
        self.check_single(step)
        return step.mean(self(outputs, step.target, samples, group, step.mask))

    def check_single(self, step: Step) -> None:
        """Refuse several outputs or targets, for a loss of one.

        Raises
        ------
        UsageError
            Naming them.
        """
        kind = type(self).__name__
        if step.targets:
            raise UsageError(
                f"{kind} takes one target, there are {', '.join(step.targets)}; use "
                f"hs.losses.Several with a loss for each of them"
            )
        if step.outputs is not None:
            raise UsageError(
                f"the network has the outputs {', '.join(step.outputs.names)}, {kind} takes one: "
                f'name it by model.output = "..." or return it alone, or use hs.losses.Several'
            )


class LinearLoss(DataLoss):
    """A mean over samples: subclasses say what a single sample's loss is."""

    linear = True

    @abstractmethod
    def per_sample(self, outputs: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """``(s, B)`` losses of ``(s, B, ...)`` outputs."""

    def items(
        self,
        outputs: Tensor,
        target: Tensor,
        samples: int,
        group: Collectives,
        weight: Tensor | None,
    ) -> Tensor:
        """``(B,)``, see :meth:`DataLoss.items`."""
        return group.sum_over_samples(self.per_sample(outputs, target, weight).sum(0) / samples)


class StatisticsLoss(DataLoss):
    """Any function of a mean over samples: two hooks, and it is exact.

    One exchange, of the size of the statistics of one sample.
    """

    #: Whether the values of an item are averaged (a score in units of the target) or summed (nats).
    average: bool = False

    @abstractmethod
    def statistics(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Local statistics: ``(s, ...)`` of ``(s, B, ...)`` outputs, sample by sample."""

    @abstractmethod
    def from_mean(self, mean: Tensor, target: Tensor, samples: int) -> Tensor:
        """Losses ``(B, ...)`` of the values, or ``(B,)`` of the items, from the mean over all S.

        Losses that have the shape of the target are weighted and reduced to one per item.
        """

    def items(
        self,
        outputs: Tensor,
        target: Tensor,
        samples: int,
        group: Collectives,
        weight: Tensor | None,
    ) -> Tensor:
        """``(B,)``, see :meth:`DataLoss.items`."""
        mean = group.sum_over_samples(self.statistics(outputs, target).sum(0)) / samples
        each = self.from_mean(mean, target, samples)
        return over_values(each, weight, average=self.average)
