"""The negative evidence lower bound, per item: data term + temperature * KL / N.

(Blundell et al. 2015; Algorithm 1 of the paper.) This is where samples meet ranks: the data term is
the sample group's, the KL is shared out over its ranks, and three memory modes decide which
activations live until the backward pass. The gradient is the same in all of them.

    keep       all local samples at once, ordinary autograd
    stream     linear losses: one chunk of samples forward and backward at a time
    recompute  other losses: outputs first without gradient, then one chunk at a time again, with
               the gradient of the loss with respect to its outputs (draws are reproducible, so this
               is exact; it costs a second forward pass)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from hpcsamp.collectives import Alone, Collectives
from hpcsamp.errors import UsageError
from hpcsamp.losses.base import DataLoss
from hpcsamp.methods import Method
from hpcsamp.topology import share

Memory = Literal["auto", "keep", "stream", "recompute"]


@dataclass
class Parts:
    """The last loss by its parts: ``data`` and ``penalty`` (already times its factor)."""

    data: float = 0.0
    penalty: float = 0.0


class ELBO:
    """``loss = mean over items of the data loss + factor * penalty / N``.

    Parameters
    ----------
    data_loss
        A loss of all S outputs.
    items
        ``N``, the number of training items: the KL counts once per pass over the data.
    collectives
        Exchange with the other ranks (default: a single process).
    temperature
        Factor of the KL; 1 is Bayes, less is a "cold" posterior. Reported wherever results are.
    warmup
        Factor of the KL by step, e.g. a linear growth from 0; multiplies ``temperature``.
    exact
        False: the paper's approximation. Every rank evaluates the data loss of its own samples as
        if they were all, and the ranks' losses are averaged.
    memory
        ``"auto"``: ``stream`` for linear losses, else ``keep``.

    Raises
    ------
    UsageError
        For ``memory="stream"`` with a loss that is not linear.
    """

    def __init__(
        self,
        data_loss: DataLoss,
        items: int,
        collectives: Collectives | None = None,
        *,
        temperature: float = 1.0,
        warmup: Callable[[int], float] | None = None,
        exact: bool = True,
        memory: Memory = "auto",
    ) -> None:
        if memory == "auto":
            memory = "stream" if data_loss.linear else "keep"
        if memory == "stream" and not data_loss.linear:
            raise UsageError(
                f'loss.memory = "stream" needs a loss that is linear in the samples, which '
                f'{type(data_loss).__name__} is not; use "recompute"'
            )
        self.data_loss = data_loss
        self.items = items
        self.collectives = collectives or Alone()
        self.temperature = temperature
        self.warmup = warmup
        self.exact = exact
        self.memory = memory
        self.parts = Parts()

    def __call__(
        self,
        method: Method,
        x: Tensor,
        y: Tensor,
        *,
        samples: int,
        step: int | None = None,
        stacked: bool = False,
        weight: Tensor | None = None,
        count: float | None = None,
    ) -> Tensor:
        """The loss of a batch; call ``.backward()`` on it.

        Collective over the sample group.

        Parameters
        ----------
        method
            What draws and evaluates the samples.
        x, y
            The batch of this sample group, ``(B, ...)`` each; ``x`` is ``(s, B, ...)`` if
            ``stacked``, for this rank's samples.
        samples
            ``S`` over the sample group.
        step
            Training step (default: ``method.step``).
        weight
            ``(B,)`` weight per item, 0 for padding.
        count
            What to divide the sum over items by (default ``B``): with masked items, the true
            items of the step over all data groups, divided by D.

        Returns
        -------
        Tensor
            Scalar: the value of the whole sample group on every rank; its gradient is this rank's
            part, to be summed over the group (:func:`hpcsamp.distribute` does).
        """
        step = method.step if step is None else step
        batch = _Batch(x, y, weight, y.shape[0] if count is None else count, stacked)
        mine = share(samples, self.collectives.sample_size, self.collectives.sample_rank)
        if len(mine) == 0:
            raise UsageError(
                f"S = {samples} samples cannot be split over P = {self.collectives.sample_size} "
                f"ranks; every rank needs at least one"
            )
        run = _Run(self, method, batch, mine, samples, step)
        if self.memory == "keep" or not torch.is_grad_enabled():
            data = run.keep()
        else:
            parameters = [p for p in method.parameters() if p.requires_grad]
            evaluate = run.stream if self.memory == "stream" else run.recompute
            data = _Deferred.apply(evaluate, *parameters)
        factor = self.temperature * (1.0 if self.warmup is None else self.warmup(step))
        c = self.collectives
        penalty = method.penalty(c.sample_rank, c.sample_size) * (factor / self.items)
        both = c.sum_over_samples(torch.stack([data.to(penalty.dtype), penalty]))
        self.parts = Parts(*(float(v) for v in both.detach()))
        return both.sum()


@dataclass
class _Batch:
    x: Tensor
    y: Tensor
    weight: Tensor | None
    count: float
    stacked: bool

    def mean(self, items: Tensor) -> Tensor:
        """Scalar from ``(B,)`` losses."""
        return (items if self.weight is None else items * self.weight).sum() / self.count


@dataclass
class _Run:
    """One evaluation of the data term: this rank's part, such that the group's sum is the whole."""

    elbo: ELBO
    method: Method
    batch: _Batch
    mine: range
    samples: int
    step: int

    def outputs(self, samples: range) -> Tensor:
        x, first = self.batch.x, self.mine.start
        if self.batch.stacked:
            x = x[samples.start - first : samples.stop - first]
        return self.method(x, samples=samples, step=self.step, stacked=self.batch.stacked)

    def part(self, outputs: Tensor) -> Tensor:
        """This rank's share of the data term from all its outputs; its value adds up, too."""
        elbo, c = self.elbo, self.elbo.collectives
        if not elbo.exact:
            own = elbo.data_loss(outputs, self.batch.y, len(self.mine), Alone())
            return self.batch.mean(own) / c.sample_size
        if elbo.data_loss.linear:
            own = elbo.data_loss(outputs, self.batch.y, self.samples, Alone())
            return self.batch.mean(own)
        whole = self.batch.mean(elbo.data_loss(outputs, self.batch.y, self.samples, c))
        # every rank has the whole value and its own gradient: only rank 0 brings in the value
        return whole if c.sample_rank == 0 else whole - whole.detach()

    def keep(self) -> Tensor:
        return self.part(self.outputs(self.mine))

    def stream(self) -> tuple[Tensor, list[Tensor | None]]:
        elbo, total = self.elbo, torch.zeros((), device=self.batch.y.device)
        ranks = 1 if elbo.exact else elbo.collectives.sample_size
        samples = self.samples if elbo.exact else len(self.mine)
        with self.method.accumulating() as accumulator:
            for chunk in self.method.chunks(self.mine):
                items = elbo.data_loss(self.outputs(chunk), self.batch.y, samples, Alone())
                value = self.batch.mean(items) / ranks
                accumulator.backward(value)
                total = total + value.detach()
        return total, accumulator.gradients()

    def recompute(self) -> tuple[Tensor, list[Tensor | None]]:
        with torch.no_grad():
            outputs = torch.cat([self.outputs(chunk) for chunk in self.method.chunks(self.mine)])
        outputs.requires_grad_()
        value = self.part(outputs)
        (upstream,) = torch.autograd.grad(value, outputs)
        with self.method.accumulating() as accumulator:
            for chunk in self.method.chunks(self.mine):
                rows = slice(chunk.start - self.mine.start, chunk.stop - self.mine.start)
                accumulator.backward(self.outputs(chunk), upstream[rows])
        return value.detach(), accumulator.gradients()


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
        return None, *(None if g is None else g.mul_(scale) for g in gradients)
