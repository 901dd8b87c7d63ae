"""One flat gradient per rank, and the optimiser it feeds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from hpcsamp.collectives.base import Collectives
from hpcsamp.collectives.shards import Shards


class Stepping(Protocol):
    """What an optimiser has to know of a method."""

    step: int
    members: range | None

    @property
    def gradient_scale(self) -> float:
        """Factor from the loss's gradient to what the optimiser is to see."""
        ...

    def after_step(self) -> None:
        """Said after each step."""
        ...


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

    def clip_rows(self, largest: float) -> None:
        """Bound the norm of each row over all parameters, whose first axis are members."""
        rows = torch.cat([view.flatten(1) for view in self._views], dim=1)
        factors = _factor(torch.linalg.vector_norm(rows, dim=1), largest)
        for view in self._views:
            view.mul_(factors.view(-1, *[1] * (view.dim() - 1)))

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
    method: Stepping | None = None,
    *,
    clip: float | None = None,
    shards: Shards | None = None,
) -> torch.optim.Optimizer:
    """Make ``optimizer.step()`` exchange gradients first.

    The optimiser stays a torch optimiser, so schedules and state dictionaries work as ever; its
    gradient becomes one flat tensor that is summed over samples and averaged over data, by one
    exchange, before each step. Where samples have parameters of their own (``method.members``), it
    is averaged over data alone.

    Parameters
    ----------
    optimizer
        Any torch optimiser; all ranks hold the same parameters, or those of their own members.
    collectives
        The transport, see :func:`hpcsamp.collectives.choose`.
    method
        Whose ``step`` to advance with each step, so that the next one draws anew.
    clip
        Largest norm of the exchanged gradient; of each member's, where there are members.
        (Clipping before the exchange would clip each rank's part, which is something else.)
    shards
        If the optimiser was built on ``shards.parts``: this rank updates these alone, and the ranks
        of the sample group give each other theirs.

    Returns
    -------
    torch.optim.Optimizer
        The same object.
    """
    own = [p for group in optimizer.param_groups for p in group["params"]]
    gradient = FlatGradient(own if shards is None else shards.parameters)

    def exchange(*_: Any) -> None:
        flat = gradient.collect()
        if shards is not None:
            shards.reduce(flat, collectives)
            if clip is not None:
                shards.scale(_factor(shards.norm(collectives), clip))
        elif method is not None and method.members is not None:
            collectives.reduce_members_(flat)
            flat.mul_(method.gradient_scale)
            if clip is not None:
                gradient.clip_rows(clip)
        else:
            collectives.reduce_gradient_(flat)
            if clip is not None:
                flat.mul_(_factor(torch.linalg.vector_norm(flat), clip))

    def zero_grad(set_to_none: bool = True) -> None:
        gradient.zero()

    def advance(*_: Any) -> None:
        if shards is not None:
            shards.share(collectives)
        if method is not None:
            method.step += 1
            method.after_step()

    optimizer.register_step_pre_hook(exchange)
    optimizer.register_step_post_hook(advance)
    optimizer.zero_grad = zero_grad  # type: ignore[method-assign]
    return optimizer


def _factor(norm: Tensor, clip: float) -> Tensor:
    return (clip / (norm + 1e-6)).clamp(max=1.0)
