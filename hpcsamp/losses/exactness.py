"""Measure in float64 whether averaging the ranks' gradients is exact for a loss."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from hpcsamp.collectives import Alone
from hpcsamp.errors import UsageError
from hpcsamp.grid import share
from hpcsamp.losses.base import DataLoss

#: Relative differences below this are the rounding of float64.
ROUNDING = 1e-9


@dataclass(frozen=True)
class Exactness:
    """Error of the value and gradient of a loss when the ranks' gradients are averaged.

    Attributes
    ----------
    exact
        Whether the averaged gradient equals the sequential gradient in every split.
    gradient_error
        Relative error ``|averaged - sequential| / |sequential|`` of the gradient with respect to
        the outputs, by number of ranks P.
    value_error
        The same relative error of the value.
    """

    exact: bool
    gradient_error: dict[int, float]
    value_error: dict[int, float]

    def __str__(self) -> str:
        if self.exact:
            return "exact: averaging gradients over ranks is the sequential algorithm"
        worst = max(self.gradient_error, key=lambda p: self.gradient_error[p])
        return (
            f"not exact: the averaged gradient is off by up to "
            f"{self.gradient_error[worst]:.2g} of its length (P = {worst})"
        )


def check_exactness(
    loss: DataLoss | Callable[[Tensor, Tensor], Tensor], outputs: Tensor, target: Tensor
) -> Exactness:
    """Split the samples over 2 to S ranks and average gradients as data-parallel frameworks do.

    Ranks are weighted by their number of samples, so that an uneven split alone causes no error.

    Parameters
    ----------
    loss
        A loss of this package, or any callable ``loss(outputs, target)`` that returns a scalar or
        a tensor of shape ``(B,)``.
    outputs
        ``(S, B, ...)`` of typical size and scatter, S >= 2; converted to float64.
    target
        ``(B, ...)``.

    Raises
    ------
    UsageError
        If there are fewer than two samples, or the loss has no finite value or no gradient.
    """
    outputs = outputs.detach().double()
    target = target.double() if target.is_floating_point() else target
    samples = len(outputs)
    if samples < 2:
        raise UsageError(f"exactness needs at least 2 samples to split, got {samples}")
    value, gradient = _evaluate(loss, outputs, target)
    if not bool(torch.isfinite(value)) or not bool(torch.isfinite(gradient).all()):
        raise UsageError(f"the loss of all {samples} samples, {float(value)}, is not finite")
    values, gradients = {}, {}
    for ranks in range(2, samples + 1):
        mean, averaged = torch.zeros_like(value), torch.zeros_like(outputs)
        for rank in range(ranks):
            own_samples = share(samples, ranks, rank)
            part = len(own_samples) / samples
            own = slice(own_samples.start, own_samples.stop)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # variance of one sample; the result reports it
                v, g = _evaluate(loss, outputs[own], target)
            mean += part * v
            averaged[own] = part * g
        values[ranks] = _relative(mean - value, value)
        gradients[ranks] = _relative(averaged - gradient, gradient)
    worst = max([*values.values(), *gradients.values()])
    return Exactness(worst < ROUNDING, gradients, values)


def _evaluate(
    loss: DataLoss | Callable[[Tensor, Tensor], Tensor], outputs: Tensor, target: Tensor
) -> tuple[Tensor, Tensor]:
    outputs = outputs.clone().requires_grad_()
    if isinstance(loss, DataLoss):
        value = loss(outputs, target, len(outputs), Alone()).mean()
    else:
        value = loss(outputs, target).mean()
    if not value.requires_grad:
        raise UsageError("the loss does not depend on the outputs in a way torch can differentiate")
    (gradient,) = torch.autograd.grad(value, outputs)
    return value.detach(), gradient


def _relative(difference: Tensor, reference: Tensor) -> float:
    # NaN counts as a large error (one sample has no variance)
    size = float(difference.norm()) / max(float(reference.norm()), 1e-300)
    return size if size == size else float("inf")
