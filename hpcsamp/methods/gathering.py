"""Gradients with respect to weights of which the ranks of a sample group hold shares.

Every rank takes part in every reduction, in one order, whatever the order in which autograd
finishes; see :mod:`hpcsamp.methods.sharing`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from hpcsamp.methods.accumulate import Accumulator
from hpcsamp.methods.made_up import Drawn
from hpcsamp.methods.sharing import STRETCH, Sharing
from hpcsamp.weights.layout import Bundle


class Chunk:
    """Samples of a round: their leaves by name, none in a round of other ranks."""

    def __init__(self, step: int, samples: range, leaves: dict[str, Tensor]) -> None:
        self.step, self.samples, self.leaves = step, samples, leaves
        self.arrived: set[int] = set()

    def has(self, bundle: Bundle) -> bool:
        """Whether all gradients of a bundle are there."""
        names = [v.name for v in bundle.variables]
        return all(n in self.leaves and id(self.leaves[n]) in self.arrived for n in names)

    def take(self, name: str, size: int) -> Tensor | None:
        """``(k, size)`` gradient of a variable, which is forgotten; None without any."""
        leaf = self.leaves.get(name)
        if leaf is None or leaf.grad is None:
            return None
        found, leaf.grad = leaf.grad.reshape(-1, size), None
        return found


class GatheredAccumulator(Accumulator):
    """Sums gradients over chunks and ranks into this rank's shares.

    Autograd stops at the samples' weights, variable by variable. What a variable has got there is
    summed over the chunk, ``d mean = sum_s g_s`` and ``sum_s g_s * noise_s`` with the noise drawn
    once more, scattered and let go; the factor ``std`` of the latter, common to all samples, comes
    in on the shares at the end.

    Parameters
    ----------
    sharing
        The shares.
    mean, log_std, fixed
        Those of this rank.
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
        self._d_mean, self._d_log_std = torch.zeros_like(self._mean), torch.zeros_like(self._mean)
        self._learning = mean.requires_grad, log_std.requires_grad
        self._own_fixed = fixed
        self._fixed = sharing.whole_fixed(None if fixed is None else fixed.detach())
        if fixed is not None and self._fixed is not None:
            self._fixed.requires_grad_(fixed.requires_grad)
        self._chunks: list[Chunk] = []
        self.bundles = sharing.bundles

    def draw(self, step: int, samples: range) -> Drawn:
        """``(k, *shape)`` weights and fixed parameters by name. Collective over the group.

        They live until :meth:`backward`, which is of all that were drawn since the last one.
        """
        sharing = self._sharing
        flat = sharing.drawn(self._mean, self._log_std, step, samples)
        leaves = {n: v.detach().requires_grad_() for n, v in sharing.random.named(flat).items()}
        self._chunks.append(Chunk(step, samples, leaves))
        return leaves, {} if self._fixed is None else sharing.fixed.named(self._fixed)

    def skip(self) -> None:
        """See :meth:`Accumulator.skip`."""
        self._sharing.drawn(self._mean, self._log_std, 0, range(0))
        self._chunks.append(Chunk(0, range(0), {}))

    def skip_backward(self) -> None:
        """See :meth:`Accumulator.skip_backward`."""
        self._backward(lambda leaves: None)

    def backward(self, value: Tensor, upstream: Tensor | None = None) -> None:
        """Add the gradient of the chunks drawn since the last one. Collective over the group."""
        fixed = [] if self._fixed is None or not self._fixed.requires_grad else [self._fixed]

        def run(leaves: list[Tensor]) -> None:
            torch.autograd.backward(value, upstream, inputs=[*leaves, *fixed])

        self._backward(run)

    def _backward(self, run: Callable[[list[Tensor]], None]) -> None:
        queue = Queue(self, self._chunks)
        leaves = [leaf for chunk in self._chunks for leaf in chunk.leaves.values()]
        hooks = [leaf.register_post_accumulate_grad_hook(queue.arrived) for leaf in leaves]
        self._chunks = []
        try:
            run(leaves)
            queue.finish()
        finally:
            for hook in hooks:
                hook.remove()

    def scatter(self, chunk: Chunk, bundle: Bundle) -> None:
        """Add the gradients of a chunk's bundle to the shares of all ranks, and let them go."""
        sharing, k = self._sharing, len(chunk.samples)
        found = [chunk.take(v.name, v.size) for v in bundle.variables]
        start = bundle.variables[0].offset
        whole = found[0] if len(found) == 1 else self._joined(found, bundle, k)
        for lo, hi in bundle.stretches:
            sums = self._mean.new_zeros(2, hi - lo)
            if whole is not None:
                noise = sharing.noise(sums.new_empty(k, hi - lo), chunk.step, chunk.samples, lo)
                for gradient, e in zip(whole[:, lo - start : hi - start], noise, strict=True):
                    own = sums[:, : len(gradient)]  # what is no variable's has no gradient
                    own[0].add_(gradient)
                    own[1].addcmul_(gradient, e[: len(gradient)])
            sharing.vector.scatter(sums[0], lo, self._d_mean)
            sharing.vector.scatter(sums[1], lo, self._d_log_std)

    def _joined(self, found: list[Tensor | None], bundle: Bundle, k: int) -> Tensor | None:
        """``(k, m)`` gradients of the variables of a bundle; 0 where there is none."""
        if all(g is None for g in found):
            return None
        pairs = zip(found, bundle.variables, strict=True)
        return torch.cat([self._mean.new_zeros(k, v.size) if g is None else g for g, v in pairs], 1)

    def gradients(self) -> list[Tensor | None]:
        """Shares of this rank, in the order mean, log_std, fixed. Collective over the group."""
        both = self._d_mean, self._d_log_std.mul_(self._log_std.exp())
        own: list[Tensor | None] = [d for d, on in zip(both, self._learning, strict=True) if on]
        if self._own_fixed is None or self._fixed is None or not self._own_fixed.requires_grad:
            return own
        found, shares = self._fixed.grad, torch.zeros_like(self._own_fixed)
        whole = torch.zeros_like(self._fixed) if found is None else found
        for start in range(0, len(whole), STRETCH):
            self._sharing.fixed_vector.scatter(whole[start : start + STRETCH], start, shares)
        return [*own, shares]


class Queue:
    """The bundles of some chunks, scattered in one order on all ranks as they become complete.

    From the last chunk and bundle to the first: that in which gradients mostly arrive.
    """

    def __init__(self, accumulator: GatheredAccumulator, chunks: Sequence[Chunk]) -> None:
        self._scatter = accumulator.scatter
        bundles = accumulator.bundles
        self._waiting = [(chunk, bundle) for chunk in chunks for bundle in bundles]
        self._owner = {id(leaf): chunk for chunk in chunks for leaf in chunk.leaves.values()}

    def arrived(self, leaf: Tensor) -> None:
        """A leaf has its gradient."""
        chunk = self._owner[id(leaf)]
        chunk.arrived.add(id(leaf))
        while self._waiting:
            chunk, bundle = self._waiting[-1]
            if not chunk.has(bundle):
                return
            self._scatter(*self._waiting.pop())

    def finish(self) -> None:
        """The backward pass is over: no more gradients will come."""
        while self._waiting:
            self._scatter(*self._waiting.pop())
