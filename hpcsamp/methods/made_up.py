"""Made-up weights for passes that probe a module on a rank without the true weights.

Whether a module draws random numbers itself, couples its items or is fast with several samples at
once does not depend on the exact weights. Passes with made-up weights need no exchange, so a
rank may make any number of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hpcsamp.methods.accumulate import Accumulator
from hpcsamp.weights import Layout

Noise = Callable[[Tensor, int, range, int], Tensor]
"""``noise(out, step, samples, first)`` fills ``(k, m)`` with noise for a section of the vector."""

Drawn = tuple[dict[str, Tensor], dict[str, Tensor]]
"""``(k, *shape)`` weights of a chunk, and fixed parameters, by name."""


class MadeUp:
    """Draws normal numbers with the mean and standard deviation of each variable's means.

    Parameters
    ----------
    random, fixed
        Layouts of the random weights and of the fixed parameters.
    means
        tensors ``(n,)`` and ``(m,)`` whose mean and standard deviation are reproduced.
    noise
        Draws standard normal noise.

    Attributes
    ----------
    probe
        A leaf with one number for each variable of the last draw with gradients: the gradient with
        respect to it is a projection of the variable's gradient, which takes no memory.
    """

    def __init__(
        self, random: Layout, fixed: Layout, means: tuple[Tensor, Tensor | None], noise: Noise
    ) -> None:
        self._random, self._noise = random, noise
        self._like = _moments(random, means[0])
        self._start = means[0].detach().new_zeros(len(random.names) + len(fixed.names))
        self.probe = self._start
        self._last: tuple[Any, Tensor] | None = None
        waves = torch.arange(fixed.size, dtype=self._start.dtype, device=self._start.device).cos()
        self._fixed = fixed.named(waves.mul_(math.sqrt(2))) if fixed.size else {}
        _scale(self._fixed, _moments(fixed, means[1]))

    def draw(self, samples: range, step: int, learns: bool, predicts: bool) -> Drawn:
        """Draw weights of some samples, and keep them for repeated passes until :meth:`forget`.

        Parameters
        ----------
        learns
            Whether a gradient is needed.
        predicts
            Whether to draw the noise of prediction instead of training.
        """
        name = (step, samples, predicts)
        if self._last is None or self._last[0] != name:
            self._last = None
            flat = self._start.new_empty(len(samples), self._random.size)
            _scale(self._random.named(self._noise(flat, step, samples, 0)), self._like)
            self._last = name, flat
        weights, shared = self._random.named(self._last[1]), self._fixed
        if learns:
            self.probe = self._start.detach().requires_grad_()  # a new leaf in the same memory
            probes = iter(self.probe.unbind())
            weights, shared = (
                {name: _Probed.apply(value, next(probes)) for name, value in table.items()}
                for table in (weights, shared)
            )
        return weights, shared

    def forget(self) -> None:
        """Free the last draw."""
        self._last = None


class Trial(Accumulator):
    """Back-propagates to the probe of made-up weights, and keeps no gradient."""

    def __init__(self, made_up: MadeUp) -> None:
        super().__init__([])
        self._made_up = made_up

    def backward(self, value: Tensor, upstream: Tensor | None = None) -> None:
        """Run the backward pass of the last draw."""
        torch.autograd.grad(value, [self._made_up.probe], upstream, allow_unused=True)


class _Probed(torch.autograd.Function):
    """``value * (1 + probe)`` for a probe of 0."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, probe: Tensor) -> Tensor:
        """Return the value."""
        ctx.save_for_backward(value)
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor]:
        """Return a projection of the gradient."""
        (value,) = ctx.saved_tensors
        return None, torch.dot(grads[0].reshape(-1), value.reshape(-1))


def _scale(values: dict[str, Tensor], like: list[tuple[float, float]]) -> None:
    for x, (centre, width) in zip(values.values(), like, strict=True):
        x.mul_(width).add_(centre)


def _moments(layout: Layout, flat: Tensor | None) -> list[tuple[float, float]]:
    """Mean and standard deviation of each variable."""
    if flat is None:
        return []
    found = (torch.var_mean(v.detach(), correction=0) for v in layout.views(flat))
    return [(float(mean), math.sqrt(float(variance))) for variance, mean in found]
