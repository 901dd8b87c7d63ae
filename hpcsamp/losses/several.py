"""Several targets: a weighted sum of losses, and an observation model of each."""

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
    """The observation models of several targets, each of which has outputs of its own.

    Parameters
    ----------
    each
        By the name of the target.

    Attributes
    ----------
    each
        As given.
    """

    def __init__(self, each: Mapping[str, Likelihood]) -> None:
        self.each = dict(each)


class Several(DataLoss):
    """``sum_k weight_k * loss_k(outputs_k, target_k)`` of a network with several outputs.

    Outputs and targets are matched by name; the outputs of a network that returns a tuple go to the
    targets in the order of the losses.

    Parameters
    ----------
    losses
        A loss of each target by its name.
    weights
        Factors by name (default: 1).

    Attributes
    ----------
    losses, weights
        As given.

    Raises
    ------
    UsageError
        For no loss, one that is joint, or a factor that is no number from 0 on.
    """

    def __init__(
        self, losses: Mapping[str, DataLoss], weights: Mapping[str, float] | None = None
    ) -> None:
        super().__init__()
        self.losses = dict(losses)
        self.weights_of = dict.fromkeys(losses, 1.0) | dict(weights or {})
        if not losses:
            raise UsageError("Several needs a loss for each target, there is none")
        for name, factor in self.weights_of.items():
            if name not in losses:
                raise UsageError(
                    f"Several: weight of {name!r}, the losses are of {', '.join(losses)}"
                )
            if not 0 <= factor < math.inf:
                raise UsageError(f"Several: the weight of {name!r} is {factor}, not from 0 on")
        for name, loss in losses.items():
            if loss.joint:
                raise UsageError(
                    f"Several: {type(loss).__name__} of {name!r} has prior and posterior as part "
                    f"of it, which count once and not for each target"
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
        """Scalar, see :meth:`DataLoss.of_step`.

        Raises
        ------
        UsageError
            If outputs or targets are others than the losses', with both lists.
        """
        if set(step.targets) != set(self.losses):
            raise UsageError(
                f"losses are of {', '.join(self.losses)}, the targets are "
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
        """``(s, B, ...)`` outputs of each target by its name.

        Raises
        ------
        UsageError
            If the outputs do not fit the losses, with both lists.
        """
        if step.outputs is None and len(self.losses) == 1:
            return dict.fromkeys(self.losses, outputs)
        if step.outputs is None:
            raise UsageError(
                f"losses are of {', '.join(self.losses)}, but the network has one output; it must "
                f"return a dictionary or a tuple with one for each of them"
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
        """There is no loss of one target.

        Raises
        ------
        UsageError
            Always.
        """
        raise UsageError("Several is a loss of a step, ELBO(...)(method, x, y)")
