"""Losses whose gradient is computed together with their value, before ``backward()``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor

from hpcsamp.collectives import EarlySums
from hpcsamp.methods.accumulate import Accumulator

Evaluate = Callable[[], tuple[Tensor, list[Tensor | None]]]
Turn = TypeVar("Turn")


def marked(accumulator: Accumulator, turns: Iterable[Turn]) -> Iterator[Turn]:
    """Iterate over the backward passes of an accumulator, and tell it which is the last one."""
    *others, last = turns
    yield from others
    accumulator.last()
    yield last


class Exchanged(torch.autograd.Function):
    """A scalar whose gradient is computed and exchanged with its value."""

    @staticmethod
    def forward(ctx: Any, evaluate: Evaluate, sums: EarlySums, anchor: Tensor) -> Tensor:
        """Return the value; ``anchor`` is a number that requires a gradient."""
        with torch.enable_grad():
            value, _ = evaluate()
        ctx.sums = sums
        return value

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, None, None]:
        """Let the sums over the ranks be added to ``.grad``, with the factor of this value."""
        sums, ctx.sums = ctx.sums, None
        sums.deliver(grads[0])
        return None, None, None


class Deferred(torch.autograd.Function):
    """A scalar whose gradient is computed together with its value; backward only scales it."""

    @staticmethod
    def forward(ctx: Any, evaluate: Evaluate, *leaves: Tensor) -> Tensor:
        """Return the value, and keep the gradients of the leaves."""
        with torch.enable_grad():
            value, gradients = evaluate()
        ctx.gradients = gradients
        return value

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        """Return the gradients, scaled."""
        (scale,) = grads
        gradients, ctx.gradients = ctx.gradients, None
        if scale.device.type == "cpu" and float(scale) == 1:  # on a GPU, reading it costs as much
            return None, *gradients
        return None, *(None if g is None else g.mul_(scale) for g in gradients)
