"""Sum gradients with respect to weights that are sharded over the ranks of a sample group.

Every reduction is collective, and the order of the reductions is the same on all ranks, in whatever
order autograd computes the gradients; see :mod:`hpcsamp.methods.sharing`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from hpcsamp.methods.accumulate import Accumulator
from hpcsamp.methods.made_up import Drawn
from hpcsamp.methods.sharing import STRETCH, Sharing
from hpcsamp.weights.layout import Bundle

Deliver = Callable[[Tensor], None]
"""Function that receives a gradient."""


class GatheredChunk:
    """Samples of a round and their gradients so far; no samples if only other ranks have some."""

    def __init__(self, step: int, samples: range) -> None:
        self.step, self.samples = step, samples
        self._found: dict[str, Tensor] = {}

    def put(self, name: str, gradient: Tensor) -> None:
        """Store the gradient of a variable."""
        self._found[name] = gradient

    def has(self, bundle: Bundle) -> bool:
        """Whether all gradients of a bundle have arrived."""
        return all(v.name in self._found for v in bundle.variables)

    def take(self, name: str, size: int) -> Tensor | None:
        """Remove and return the ``(k, size)`` gradient of a variable; None if there is none."""
        found = self._found.pop(name, None)
        return None if found is None else found.reshape(-1, size)


class _Tapped(torch.autograd.Function):
    """Return the draws of a variable; pass their gradient to ``deliver`` when it is complete.

    The draws are not leaves, because autograd would store their gradients, and copy those of
    another memory layout. ``anchor`` is the leaf that autograd differentiates by instead.
    """

    @staticmethod
    def forward(ctx: Any, draws: Tensor, anchor: Tensor, deliver: Deliver) -> Tensor:
        """Return the draws."""
        ctx.deliver = deliver
        return draws.view_as(draws)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor, None]:
        """Pass the gradient to ``deliver``."""
        ctx.deliver(grads[0])
        return None, grads[0].new_zeros(()), None


class GatheredAccumulator(Accumulator):
    """Sums gradients over chunks and ranks into this rank's shares.

    Autograd stops at the samples' weights, variable by variable. The gradient there is summed over
    the chunk, as ``d mean = sum_s g_s`` and ``sum_s g_s * noise_s`` with the noise drawn again,
    then scattered over the ranks and freed; the factor ``std`` of the second sum, which all samples
    have in common, is applied to the shares at the end.

    Parameters
    ----------
    sharing
        The shares of the method's vectors.
    mean, log_std, fixed
        This rank's shares.
    """

    def __init__(
        self,
        sharing: Sharing,
        mean: nn.Parameter,
        log_std: nn.Parameter,
        fixed: nn.Parameter | None,
    ) -> None:
        super().__init__([])
        self._sharing, self._mean, self._log_std = sharing, mean.detach(), log_std.detach()
        sizes = [len(self._mean), len(self._mean), 0 if fixed is None else len(fixed)]
        sums = self._mean.new_zeros(sum(sizes)).split(sizes)  # see FlatGradient
        self._d_mean, self._d_log_std, self._d_fixed = sums
        self._learning = mean.requires_grad, log_std.requires_grad
        self._own_fixed = fixed
        self._fixed = sharing.whole_fixed(None if fixed is None else fixed.detach())
        if fixed is not None and self._fixed is not None:
            self._fixed.requires_grad_(fixed.requires_grad)
        self._waiting: list[tuple[GatheredChunk, Bundle]] = []
        self._anchor = self._mean.new_zeros(()).requires_grad_()

    def draw(self, step: int, samples: range) -> Drawn:
        """Return ``(k, *shape)`` weights and fixed parameters by name. Collective over the group.

        They are kept until :meth:`backward`, which handles all draws since its last call.
        """
        sharing = self._sharing
        flat = sharing.drawn(self._mean, self._log_std, step, samples)
        chunk = GatheredChunk(step, samples)
        self._expect(chunk)
        weights = {
            name: _Tapped.apply(draws, self._anchor, partial(self._arrived, chunk, name))
            for name, draws in sharing.random.named(flat).items()
        }
        return weights, {} if self._fixed is None else sharing.fixed.named(self._fixed)

    def skip(self) -> None:
        """See :meth:`Accumulator.skip`."""
        self._sharing.drawn(self._mean, self._log_std, 0, range(0))
        self._expect(GatheredChunk(0, range(0)))

    def skip_backward(self) -> None:
        """See :meth:`Accumulator.skip_backward`."""
        self._finish()

    def backward(self, value: Tensor, upstream: Tensor | None = None) -> None:
        """Add the gradients of the chunks drawn since the last call. Collective over the group."""
        fixed = [] if self._fixed is None or not self._fixed.requires_grad else [self._fixed]
        torch.autograd.backward(value, upstream, inputs=[self._anchor, *fixed])
        self._finish()

    # The bundles of chunks are scattered in the same order on all ranks, as they become complete:
    # from the last chunk and bundle to the first, the order in which gradients mostly arrive.

    def _expect(self, chunk: GatheredChunk) -> None:
        """Expect the gradients of this chunk in the next backward pass."""
        self._waiting += [(chunk, bundle) for bundle in self._sharing.bundles]

    def _arrived(self, chunk: GatheredChunk, name: str, gradient: Tensor) -> None:
        """Store the gradient of a variable, and scatter the bundles that are complete."""
        chunk.put(name, gradient)
        while self._waiting and self._waiting[-1][0].has(self._waiting[-1][1]):
            self._scatter(*self._waiting.pop())

    def _finish(self) -> None:
        """End the backward pass: scatter the remaining bundles; no more gradients will arrive."""
        while self._waiting:
            self._scatter(*self._waiting.pop())

    def _scatter(self, chunk: GatheredChunk, bundle: Bundle) -> None:
        """Add the gradients of a chunk's bundle to the shares of all ranks, and free them."""
        sharing, k = self._sharing, len(chunk.samples)
        found = [chunk.take(v.name, v.size) for v in bundle.variables]
        start = bundle.variables[0].offset
        whole = found[0] if len(found) == 1 else self._joined(found, bundle, k)
        for lo, hi in bundle.stretches:
            sums = self._mean.new_zeros(2, hi - lo)
            if whole is not None:
                noise = sharing.noise(sums.new_empty(k, hi - lo), chunk.step, chunk.samples, lo)
                for gradient, e in zip(whole[:, lo - start : hi - start], noise, strict=True):
                    own = sums[:, : len(gradient)]  # padding after the variables has no gradient
                    own[0].add_(gradient)
                    own[1].addcmul_(gradient, e[: len(gradient)])
            sharing.vector.scatter(sums[0], lo, self._d_mean)
            sharing.vector.scatter(sums[1], lo, self._d_log_std)

    def _joined(self, found: list[Tensor | None], bundle: Bundle, k: int) -> Tensor | None:
        """Return ``(k, m)`` gradients of the variables of a bundle; 0 for a missing gradient."""
        if all(g is None for g in found):
            return None
        pairs = zip(found, bundle.variables, strict=True)
        return torch.cat([self._mean.new_zeros(k, v.size) if g is None else g for g, v in pairs], 1)

    def gradients(self) -> list[Tensor | None]:
        """Return this rank's shares of mean, log_std, fixed. Collective over the group."""
        both = self._d_mean, self._d_log_std.mul_(self._log_std.exp())
        own: list[Tensor | None] = [d for d, on in zip(both, self._learning, strict=True) if on]
        if self._own_fixed is None or self._fixed is None or not self._own_fixed.requires_grad:
            return own
        found, shares = self._fixed.grad, self._d_fixed
        whole = torch.zeros_like(self._fixed) if found is None else found
        for start in range(0, len(whole), STRETCH):
            self._sharing.fixed_vector.scatter(whole[start : start + STRETCH], start, shares)
        return [*own, shares]
