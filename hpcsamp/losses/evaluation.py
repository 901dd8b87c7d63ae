"""Evaluate the data term of a batch, with a choice of which activations are kept for backward.

Three memory modes have the same gradient:

    keep       all local samples at once, ordinary autograd
    stream     linear losses: one chunk of samples forward and backward at a time
    recompute  other losses: outputs first without gradient, then again one chunk at a time, with
               the gradient of the loss with respect to its outputs (draws are reproducible, so this
               is exact; it costs a second forward pass)

In all modes the batch may be split into parts that are evaluated one after the other: activations
are then those of one part. Draws are identified by sample and item, and a loss is a mean over
items, so the gradient is the same.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from hpcsamp.collectives import Alone, Collectives, EarlySums
from hpcsamp.errors import UsageError
from hpcsamp.grid import share
from hpcsamp.losses.base import DataLoss
from hpcsamp.losses.batch import Step
from hpcsamp.losses.deferred import Deferred, Evaluate, Exchanged, marked
from hpcsamp.losses.graphs import Graphs
from hpcsamp.losses.values import in_parts
from hpcsamp.methods import Method
from hpcsamp.methods.accumulate import Accumulator
from hpcsamp.names import Memory
from hpcsamp.watchdog import here
from hpcsamp.weights import Inputs


@dataclass
class LossEvaluation:
    """Evaluation of this rank's part of the data term; the sum over the group is the exact term.

    Attributes
    ----------
    loss, collectives, exact
        As in :class:`~hpcsamp.losses.ELBO`.
    method, x, stacked, index, undo, samples, step
        As in the call of the ELBO.
    items
        The batch, as passed to losses.
    own_samples
        The samples of this rank.
    ratio
        ``(s,)``, the log density ratios of this rank's samples, for a joint loss.
    accumulate
        Number of parts that the batch is split into.
    graphs
        Replays the evaluation from CUDA graphs; None: it is not captured.
    leads
        Number of lead times of an item. Outputs are ``(s, B, leads, ...)`` if there are several;
        for losses each lead time is an item of its own.
    early
        Exchanges the gradient under the last backward pass; None: it is exchanged later.
    penalise
        Adds the gradient of the penalty to that of the data term, see :meth:`Method.add_penalty`.
    penalty
        The penalty whose gradient was added; None if it was not.
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
    own_samples: range
    samples: int
    step: int
    ratio: Tensor | None
    accumulate: int = 1
    graphs: Graphs | None = None
    leads: int = 1
    early: EarlySums | None = None
    penalise: Callable[[list[Tensor | None]], Tensor | None] | None = None
    penalty: Tensor | None = None

    def value(self, memory: Memory) -> Tensor:
        """Return a scalar that supports ``backward()``."""
        with self._values():
            return self._value(memory)

    def _value(self, memory: Memory) -> Tensor:
        if (self.accumulate > 1 or self.leads > 1) and torch.is_grad_enabled():
            self._check_parts()
        if self.early is not None:
            begun = self.stream if memory == "stream" else self._recompute
            anchor = torch.zeros((), device=self.x.device, requires_grad=True)
            exchanged: Tensor = Exchanged.apply(begun, self.early, anchor)
            return exchanged
        shares = self.method.shared_out
        small = (self.graphs is None or self.graphs.off) and self._is_small(memory)
        whole = self.accumulate == 1 and (memory == "keep" or small)
        if (whole and not shares) or not torch.is_grad_enabled():
            return self._keep()
        leaves: list[Tensor] = [p for p in self.method.parameters() if p.requires_grad]
        if self.ratio is not None:
            leaves = [self.ratio, *leaves]
        evaluate: Evaluate = self._recompute
        if memory == "stream":
            captured = None if self.graphs is None else self.graphs.prepare(self)
            evaluate = self.stream if captured is None else partial(captured.replay, self)
        elif memory == "keep" and (
            self.accumulate == 1 or type(self.loss).of_step is DataLoss.of_step  # mean over items
        ):
            evaluate = self._keep_parts
        deferred: Tensor = Deferred.apply(partial(self._penalised, evaluate), *leaves)
        return deferred

    def _penalised(self, evaluate: Evaluate) -> tuple[Tensor, list[Tensor | None]]:
        value, gradients = evaluate()
        if self.penalise is not None:
            with here.part("penalty"):
                self.penalty = self.penalise(gradients)
        return value, gradients

    def _values(self) -> AbstractContextManager[None]:
        """Context that defines whether this rank holds all values of the outputs."""
        if self.method.spread is not None and self.loss.takes_parts:
            return in_parts(self.collectives)
        return nullcontext()

    def _check_parts(self) -> None:
        """Check that the module may be evaluated on parts of its batch.

        Raises
        ------
        UsageError
            If the module uses statistics of the batch, or updates its state from them.
        """
        self.method.observe(
            self.x, self.own_samples, self.step, stacked=self.stacked, index=self.index
        )
        if self.method.state.whole:
            what = f"accumulate = {self.accumulate} splits a batch into parts"
            key = "data.accumulate"
            if self.leads > 1:
                what, key = f"a rollout has {self.leads} passes in a step", "training.rollout"
            raise UsageError(
                f"{what}, but the network normalises over the whole batch, or keeps a running mean "
                f'of it: leave {key} at 1, or set model.batch_norm = "frozen" or "group"'
            )

    def _parts(self) -> list[LossEvaluation]:
        """Return an evaluation of each part of the batch, with the divisor of the whole batch."""
        if self.accumulate == 1:
            return [self]
        items = len(self.items.target) // self.leads
        count = min(self.accumulate, items)
        return [self._of(share(items, count, part)) for part in range(count)]

    def _of(self, items: range) -> LossEvaluation:
        part, step = slice(items.start, items.stop), self.items
        mask, rows = step.mask, slice(items.start * self.leads, items.stop * self.leads)

        def cut(known: Tensor) -> Tensor:
            return known if len(known) == 1 else known[rows]

        known = torch.arange(items.start, items.stop, device=step.target.device)
        return replace(
            self,
            x=self.x[:, part] if self.stacked else self.x[part],
            index=known if self.index is None else self.index[part],
            undo=None if self.undo is None else partial(self.undo, items=part),
            items=replace(
                step,
                target=step.target[rows],
                weight=None if step.weight is None else step.weight[rows],
                mask=mask.map(cut)
                if isinstance(mask, Inputs)
                else mask
                if mask is None
                else cut(mask),
            ),
            accumulate=1,
        )

    def _outputs(self, samples: range) -> Tensor:
        x, first = self.x, self.own_samples.start
        if self.stacked:
            x = x[samples.start - first : samples.stop - first]
        with here.part("forward"):
            outputs = self.method(
                x, samples=samples, step=self.step, stacked=self.stacked, index=self.index
            )
        if self.method.spread is not None and not self.loss.takes_parts:
            outputs = self.collectives.gather_over_model(outputs, self.method.spread.outputs)
        if self.leads > 1:
            outputs = outputs.flatten(1, 2)
        return outputs if self.undo is None else self.undo(outputs, samples=samples)

    def _part(self, outputs: Tensor, ratio: Tensor | None) -> Tensor:
        """Return this rank's share of the data term: values and gradients add up over the group."""
        loss, c = self.loss, self.collectives
        if not self.exact:
            return (
                loss.of_step(outputs, self.items, len(self.own_samples), Alone(), ratio)
                / c.sample_size
            )
        if loss.linear:
            return loss.of_step(outputs, self.items, self.samples, Alone(), ratio)
        whole = loss.of_step(outputs, self.items, self.samples, c, ratio)
        # every rank has the whole value and its own gradient: only rank 0 contributes the value
        return whole if c.sample_rank == 0 else whole - whole.detach()

    def _is_small(self, memory: Memory) -> bool:
        """Whether all samples fit in one pass, so that streaming would save no activations."""
        if memory != "stream" or len(self.own_samples) == 1:
            return False
        return next(iter(self.method.chunks(self.own_samples, self.stacked))) == self.own_samples

    def _keep(self) -> Tensor:
        return self._part(self._outputs(self.own_samples), self.ratio)

    def stream(self) -> tuple[Tensor, list[Tensor | None]]:
        """Return value and gradients of a linear loss, evaluated one chunk at a time."""
        values = []
        ranks = 1 if self.exact else self.collectives.sample_size
        samples = self.samples if self.exact else len(self.own_samples)
        parts, chunks = self._parts(), list(self.method.chunks(self.own_samples, self.stacked))
        with self._accumulating() as accumulator:
            for chunk, part in marked(accumulator, itertools.product(chunks, parts)):
                outputs = part._outputs(chunk)
                value = self.loss.of_step(outputs, part.items, samples, Alone(), None)
                value = value if ranks == 1 else value / ranks
                with here.part("backward"):
                    accumulator.backward(value)
                values.append(value.detach())
                del outputs, value  # their graph keeps the weights of a chunk alive
            for _ in range(self._rounds_of_others(chunks) * len(parts)):
                accumulator.skip()
                accumulator.skip_backward()
            return sum(values[1:], values[0]), accumulator.gradients()

    def _keep_parts(self) -> tuple[Tensor, list[Tensor | None]]:
        values, chunks = [], list(self.method.chunks(self.own_samples, self.stacked))
        with self._accumulating_all() as accumulator:
            for part in self._parts():
                outputs = part._outputs(self.own_samples)
                for _ in range(self._rounds_of_others(chunks)):
                    accumulator.skip()
                value = part._part(outputs, self.ratio)
                with here.part("backward"):
                    accumulator.backward(value)
                values.append(value.detach())
                del outputs, value
            return sum(values[1:], values[0]), accumulator.gradients()

    @contextmanager
    def _accumulating(self) -> Iterator[Accumulator]:
        """Context that sums the gradients of one chunk after the other, and may exchange them."""
        with self.method.accumulating() as accumulator:
            if self.early is not None:
                accumulator.send_to(self.early)
            yield accumulator
        if self.early is not None:
            self.early.end()

    def _accumulating_all(self) -> AbstractContextManager[Accumulator]:
        """Context that sums the gradients of all samples at once."""
        if self.method.shared_out:
            return self.method.accumulating()
        return nullcontext(Accumulator(self.method.parameters()))

    def _rounds_of_others(self, chunks: Sequence[range]) -> int:
        """Number of passes in which this rank only sends weights, for samples of other ranks."""
        if not self.method.shared_out:
            return 0
        ranks = self.collectives.sample_size
        most = max(len(share(self.samples, ranks, rank)) for rank in range(ranks))
        return len(list(self.method.chunks(range(most), self.stacked))) - len(chunks)

    def _recompute(self) -> tuple[Tensor, list[Tensor | None]]:
        parts = self._parts()
        chunks = list(self.method.chunks(self.own_samples, self.stacked))
        # ranks that gather shares of weights wait for each other: all samples go in one call
        spans = [self.own_samples] if self.method.shared_out else chunks
        with torch.no_grad():
            outputs = torch.cat(
                [torch.cat([part._outputs(span) for part in parts], 1) for span in spans]
            )
        leaves = [outputs.requires_grad_()]
        if self.ratio is not None:
            leaves.append(self.ratio.detach().requires_grad_())
        value = self._part(outputs, leaves[-1] if self.ratio is not None else None)
        upstream, *rest = torch.autograd.grad(value, leaves)
        columns = upstream.split([len(part.items.target) for part in parts], 1)
        pairs = list(zip(parts, columns, strict=True))
        with self._accumulating() as accumulator:
            for chunk, (part, column) in marked(accumulator, itertools.product(chunks, pairs)):
                rows = slice(
                    chunk.start - self.own_samples.start, chunk.stop - self.own_samples.start
                )
                outputs = part._outputs(chunk)
                with here.part("backward"):
                    accumulator.backward(outputs, column[rows])
                del outputs
            for _ in range(self._rounds_of_others(chunks) * len(parts)):
                accumulator.skip()
                accumulator.skip_backward()
            return value.detach(), [*rest, *accumulator.gradients()]
