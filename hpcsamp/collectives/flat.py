"""One flat gradient per rank, exchanged once per step, and the optimiser it feeds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from hpcsamp.collectives.base import Collectives


class Steps(Protocol):
    """Something that counts training steps."""

    step: int


class FlatGradient:
    """The gradients of some parameters as views of one contiguous tensor.

    Autograd adds into existing ``.grad`` tensors in place, so as long as nobody replaces them the
    exchange needs no copy.

    Parameters
    ----------
    parameters
        Parameters of one type and device.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self.parameters = [p for p in parameters if p.requires_grad]
        first = self.parameters[0]
        self.flat = torch.zeros(
            sum(p.numel() for p in self.parameters), dtype=first.dtype, device=first.device
        )
        sizes = [p.numel() for p in self.parameters]
        self._views = [
            part.view_as(p) for part, p in zip(self.flat.split(sizes), self.parameters, strict=True)
        ]
        self.zero()

    def zero(self) -> None:
        """Forget the gradient, keeping the views in place."""
        self.flat.zero_()
        for p, view in zip(self.parameters, self._views, strict=True):
            p.grad = view

    def collect(self) -> Tensor:
        """The flat gradient; gradients that somebody replaced are copied in first."""
        for p, view in zip(self.parameters, self._views, strict=True):
            if p.grad is None:
                view.zero_()
                p.grad = view
            elif p.grad is not view and p.grad.data_ptr() != view.data_ptr():
                view.copy_(p.grad)
                p.grad = view
        return self.flat


def distribute(
    optimizer: torch.optim.Optimizer,
    collectives: Collectives,
    method: Steps | None = None,
    *,
    clip: float | None = None,
) -> torch.optim.Optimizer:
    """Make ``optimizer.step()`` exchange gradients first.

    The optimiser stays a torch optimiser, so schedules and state dictionaries work as ever; its
    gradient becomes one flat tensor that is summed over samples and averaged over data, by one
    exchange, before each step.

    Parameters
    ----------
    optimizer
        Any torch optimiser; all ranks hold the same parameters.
    collectives
        The transport, see :func:`hpcsamp.collectives.choose`.
    method
        Whose ``step`` to advance with each step, so that the next one draws anew.
    clip
        Largest norm of the exchanged gradient. (Clipping before the exchange would clip each
        rank's part, which is something else.)

    Returns
    -------
    torch.optim.Optimizer
        The same object.
    """
    gradient = FlatGradient(p for group in optimizer.param_groups for p in group["params"])

    def exchange(*_: Any) -> None:
        flat = gradient.collect()
        collectives.reduce_gradient_(flat)
        if clip is not None:
            norm = torch.linalg.vector_norm(flat)
            flat.mul_((clip / (norm + 1e-6)).clamp(max=1.0))

    def zero_grad(set_to_none: bool = True) -> None:
        gradient.zero()

    def advance(*_: Any) -> None:
        if method is not None:
            method.step += 1

    optimizer.register_step_pre_hook(exchange)
    optimizer.register_step_post_hook(advance)
    optimizer.zero_grad = zero_grad  # type: ignore[method-assign]
    return optimizer
