"""The data term of a batch, and which activations live until its backward pass.

Three memory modes have the same gradient:

    keep       all local samples at once, ordinary autograd
    stream     linear losses: one chunk of samples forward and backward at a time
    recompute  other losses: outputs first without gradient, then one chunk at a time again, with
               the gradient of the loss with respect to its outputs (draws are reproducible, so this
               is exact; it costs a second forward pass)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hpcsamp.collectives import Alone, Collectives
from hpcsamp.losses.base import DataLoss
from hpcsamp.losses.batch import Step
from hpcsamp.methods import Method
from hpcsamp.names import Memory
from hpcsamp.watchdog import here


@dataclass
class Evaluation:
    """One evaluation of the data term: this rank's part, such that the group's sum is the whole.

    Attributes
    ----------
    loss, collectives, exact
        Of the :class:`~hpcsamp.losses.ELBO`.
    method, x, stacked, index, undo, samples, step
        As in its call.
    items
        The batch as losses see it.
    mine
        The samples of this rank.
    ratio
        ``(s,)``, the log density ratios of the own samples for a joint loss.
    """

    loss: DataLoss
    collectives: Collectives
    exact: bool
    method: Method
    x: Tensor
    stacked: bool
    index: Tensor | None
    undo: Callable[..., Tensor] | None
    items: Step
    mine: range
    samples: int
    step: int
    ratio: Tensor | None

    def value(self, memory: Memory) -> Tensor:
        """Scalar, of which ``backward()`` may be called."""
        if memory == "keep" or not torch.is_grad_enabled() or self._is_small(memory):
            return self._keep()
        leaves: list[Tensor] = [p for p in self.method.parameters() if p.requires_grad]
        if self.ratio is not None:
            leaves = [self.ratio, *leaves]
        evaluate = self._stream if memory == "stream" else self._recompute
        deferred: Tensor = _Deferred.apply(evaluate, *leaves)
        return deferred

    def _outputs(self, samples: range) -> Tensor:
        x, first = self.x, self.mine.start
        if self.stacked:
            x = x[samples.start - first : samples.stop - first]
        with here.part("forward"):
            outputs = self.method(
                x, samples=samples, step=self.step, stacked=self.stacked, index=self.index
            )
        return outputs if self.undo is None else self.undo(outputs, samples=samples)

    def _part(self, outputs: Tensor, ratio: Tensor | None) -> Tensor:
        """This rank's share of the data term from all its outputs; its value adds up, too."""
        loss, c = self.loss, self.collectives
        if not self.exact:
            return loss.of_step(outputs, self.items, len(self.mine), Alone(), ratio) / c.sample_size
        if loss.linear:
            return loss.of_step(outputs, self.items, self.samples, Alone(), ratio)
        whole = loss.of_step(outputs, self.items, self.samples, c, ratio)
        # every rank has the whole value and its own gradient: only rank 0 brings in the value
        return whole if c.sample_rank == 0 else whole - whole.detach()

    def _is_small(self, memory: Memory) -> bool:
        """Whether all samples go in one pass, so that streaming would save no activations."""
        if memory != "stream" or len(self.mine) == 1:
            return False
        return next(iter(self.method.chunks(self.mine, self.stacked))) == self.mine

    def _keep(self) -> Tensor:
        return self._part(self._outputs(self.mine), self.ratio)

    def _stream(self) -> tuple[Tensor, list[Tensor | None]]:
        values = []
        ranks = 1 if self.exact else self.collectives.sample_size
        samples = self.samples if self.exact else len(self.mine)
        with self.method.accumulating() as accumulator:
            for chunk in self.method.chunks(self.mine, self.stacked):
                outputs = self._outputs(chunk)
                value = self.loss.of_step(outputs, self.items, samples, Alone(), None)
                value = value if ranks == 1 else value / ranks
                with here.part("backward"):
                    accumulator.backward(value)
                values.append(value.detach())
        return sum(values[1:], values[0]), accumulator.gradients()

    def _recompute(self) -> tuple[Tensor, list[Tensor | None]]:
        with torch.no_grad():
            outputs = torch.cat(
                [self._outputs(chunk) for chunk in self.method.chunks(self.mine, self.stacked)]
            )
        leaves = [outputs.requires_grad_()]
        if self.ratio is not None:
            leaves.append(self.ratio.detach().requires_grad_())
        value = self._part(outputs, leaves[-1] if self.ratio is not None else None)
        upstream, *rest = torch.autograd.grad(value, leaves)
        with self.method.accumulating() as accumulator:
            for chunk in self.method.chunks(self.mine, self.stacked):
                rows = slice(chunk.start - self.mine.start, chunk.stop - self.mine.start)
                outputs = self._outputs(chunk)
                with here.part("backward"):
                    accumulator.backward(outputs, upstream[rows])
        return value.detach(), [*rest, *accumulator.gradients()]


class _Deferred(torch.autograd.Function):
    """A scalar whose gradient is computed with its value; backward only scales it."""

    @staticmethod
    def forward(ctx: Any, evaluate: Any, *leaves: Tensor) -> Tensor:
        with torch.enable_grad():
            value, gradients = evaluate()
        ctx.gradients = gradients
        return value

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        (scale,) = grads
        gradients, ctx.gradients = ctx.gradients, None
        if scale.device.type == "cpu" and float(scale) == 1:  # elsewhere to look takes as long
            return None, *gradients
        return None, *(None if g is None else g.mul_(scale) for g in gradients)
