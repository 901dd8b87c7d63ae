"""Losses of several targets: a weighted sum of losses, and an observation model for each."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

from hpcsamp.collectives import Collectives
from hpcsamp.errors import UsageError
from hpcsamp.losses.base import DataLoss
from hpcsamp.losses.batch import Step
from hpcsamp.losses.likelihoods import Likelihood


class Likelihoods(Likelihood):
    """The observation models of several targets, each with outputs of its own.

    Parameters
    ----------
    each
        Observation models by the name of the target.

    Attributes
    ----------
    each
        The observation models, as a dictionary.
    """

    def __init__(self, each: Mapping[str, Likelihood]) -> None:
        self.each = dict(each)


class Several(DataLoss):
    """Weighted sum of the losses of several outputs, ``sum_k weight_k * loss_k(y_k, t_k)``.

    Outputs and targets are matched by name; if the network returns a tuple, its outputs belong to
    the targets in the order of the losses.

    Parameters
    ----------
    losses
        The loss of each target, by name.
    weights
        Factors by name (default: 1).

    Attributes
    ----------
    losses, weights
        The arguments.

    Raises
    ------
    UsageError
        If there is no loss, if one is joint, or if a factor is not a finite number of at least 0.
    """

    def __init__(
        self, losses: Mapping[str, DataLoss], weights: Mapping[str, float] | None = None
    ) -> None:
        super().__init__()
        self.losses = dict(losses)
        self.weights_of = dict.fromkeys(losses, 1.0) | dict(weights or {})
        if not losses:
            raise UsageError("Several needs a loss for each target, but there are no losses")
        for name, factor in self.weights_of.items():
            if name not in losses:
                raise UsageError(
                    f"Several: {name!r} has a weight but no loss; there are losses of "
                    f"{', '.join(losses)}"
                )
            if not 0 <= factor < math.inf:
                raise UsageError(f"Several: the weight of {name!r} is {factor}, but must be >= 0")
        for name, loss in losses.items():
            if loss.joint:
                raise UsageError(
                    f"Several: {type(loss).__name__} of {name!r} includes prior and posterior, "
                    f"which would count once for each target"
                )
        self.linear = all(loss.linear for loss in losses.values())
        self.least_samples = max(loss.least_samples for loss in losses.values())

    def of_step(
        self,
        outputs: Tensor,
        step: Step,
        samples: int,
        group: Collectives,
        log_ratio: Tensor | None,
    ) -> Tensor:
        """Return the loss of a step, a scalar, see :meth:`DataLoss.of_step`.

        Raises
        ------
        UsageError
            If outputs or targets have other names than the losses; the message lists both.
        """
        if set(step.targets) != set(self.losses):
            raise UsageError(
                f"the losses are for {', '.join(self.losses)}, but the targets are "
                f"{', '.join(step.targets) or 'one without a name'}"
            )
        parts = self.split(outputs, step)
        total = None
        for name, loss in self.losses.items():
            of = loss.of_step(parts[name], step.part(name), samples, group, log_ratio)
            total = (
                self.weights_of[name] * of
                if total is None
                else (total + self.weights_of[name] * of)
            )
        assert total is not None
        return total

    def split(self, outputs: Tensor, step: Step) -> dict[str, Tensor]:
        """Return the ``(s, B, ...)`` outputs of each target, by name.

        Raises
        ------
        UsageError
            If the outputs do not fit the losses; the message lists both.
        """
        if step.outputs is None and len(self.losses) == 1:
            return dict.fromkeys(self.losses, outputs)
        if step.outputs is None:
            raise UsageError(
                f"the losses are for {', '.join(self.losses)}, but the network has one output; it "
                f"must return a dictionary or a tuple with an output for each"
            )
        return step.outputs.split(outputs, list(self.losses))

    def items(
        self,
        outputs: Tensor,
        target: Tensor,
        samples: int,
        group: Collectives,
        weight: Tensor | None,
    ) -> Tensor:
        """Raise an error, because the loss of several targets is only defined by :meth:`of_step`.

        Raises
        ------
        UsageError
            Always.
        """
        raise UsageError("the loss Several needs several targets; call ELBO(...)(method, x, y)")
