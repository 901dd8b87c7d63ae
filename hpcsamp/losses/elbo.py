"""The negative evidence lower bound, per item: data term + temperature * KL / N.

(Blundell et al. 2015; Algorithm 1 of the paper.) The data term is a function of the samples of the
whole sample group; the KL is divided over the ranks of the group. :mod:`.evaluation` decides which
activations are kept until the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import get_args

import torch
from torch import Tensor

from hpcsamp.collectives import Alone, Collectives, early_of
from hpcsamp.collectives.sameness import compare, fingerprint, settings_of
from hpcsamp.errors import UsageError
from hpcsamp.grid import share
from hpcsamp.losses.base import DataLoss
from hpcsamp.losses.batch import Step
from hpcsamp.losses.checks import NoiseWatch, check_arguments, check_call, check_early
from hpcsamp.losses.evaluation import LossEvaluation
from hpcsamp.losses.graphs import Graphs
from hpcsamp.methods import Method
from hpcsamp.names import KL, GraphsKey, Memory
from hpcsamp.watchdog import here
from hpcsamp.weights import inputs_of
from hpcsamp.weights.inputs import tensors


@dataclass
class Parts:
    """The two terms of the last loss: ``data`` and ``penalty`` (multiplied by its factor).

    A joint loss has no separate penalty: its whole value is in ``data``.
    """

    data: float = 0.0
    penalty: float = 0.0

    @property
    def total(self) -> float:
        """The loss, the sum of both terms."""
        return self.data + self.penalty


class ELBO:
    """Negative ELBO: ``loss = mean over items of the data loss + factor * penalty / N``.

    Parameters
    ----------
    data_loss
        A loss of the outputs of all S samples.
    items
        ``N``, the number of training items, at least 1: the KL counts once per pass over the data.
    collectives
        Collectives that reach the other ranks (default: a single process).
    temperature
        Factor of the KL; 1 is Bayes' rule, a smaller value a "cold" posterior. It is reported with
        every result.
    warmup
        Factor of the KL as a function of the step, e.g. from :mod:`hpcsamp.losses.schedules`; it
        multiplies ``temperature``.
    kl
        ``"analytic"``: the method's own penalty; each rank of the group computes its gradient for a
        slice of the parameters. ``"monte_carlo"``: ``mean_s log q(w_s) - log p(w_s)`` of the draws,
        as in torch_blue; each rank uses its own samples.
    exact
        False: the paper's approximation. Every rank evaluates the data loss as if its own samples
        were all samples, and the ranks' losses are averaged.
    memory
        ``"auto"``: ``stream`` for linear losses, otherwise ``keep``.
    accumulate
        Number of parts that a batch is split into, which are evaluated one after the other: loss
        and gradient are those of the whole batch, activations are those of one part. A batch of
        fewer items is evaluated item by item.
    graphs
        Whether the data term and its gradient are replayed from a CUDA graph
        (:mod:`hpcsamp.losses.graphs`), which needs a GPU, ``memory="stream"`` and fixed sizes;
        ``"auto"``: if nothing prevents it.

    Raises
    ------
    UsageError
        If an argument has a wrong type, if ``memory="stream"`` is combined with a loss that is not
        linear, if ``graphs`` is combined with another mode, or if ``memory`` or ``kl`` is unknown.
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
        kl: KL = "analytic",
        accumulate: int = 1,
        graphs: GraphsKey = False,
    ) -> None:
        check_arguments(data_loss, items, collectives, temperature, warmup, accumulate)
        _one_of("memory", memory, get_args(Memory))
        _one_of("kl", kl, get_args(KL))
        if memory == "auto":
            memory = "stream" if data_loss.linear else "keep"
        if memory == "stream" and not data_loss.linear:
            raise UsageError(
                f'loss.memory = "stream" needs a loss that is linear in the samples, but '
                f'{type(data_loss).__name__} is not; use "recompute"'
            )
        why = ""
        if memory != "stream":
            why = (
                f'it needs loss.memory = "stream", for a loss linear in the samples, not {memory} '
                f"for {type(data_loss).__name__}"
            )
        self.data_loss = data_loss
        self.items = items
        self.collectives = collectives or Alone()
        self.temperature = temperature
        self.warmup = warmup
        self.exact = exact
        self.memory = memory
        self.kl = kl
        self.accumulate = accumulate
        self.graphs = Graphs(graphs == "auto", why) if graphs else None
        self._terms: Tensor | None = None  # of the last loss, on its device
        self._settings = {"data_loss": settings_of(data_loss), "exact": exact, "kl": kl}
        self._noise = NoiseWatch()

    def __call__(
        self,
        method: Method,
        x: Tensor | Mapping[str, Tensor],
        y: Tensor | Mapping[str, Tensor],
        *,
        samples: int,
        step: int | None = None,
        stacked: bool = False,
        weight: Tensor | None = None,
        count: float | None = None,
        mask: Tensor | Mapping[str, Tensor] | None = None,
        index: Tensor | None = None,
        undo: Callable[..., Tensor] | None = None,
        leads: Tensor | None = None,
        whole: bool = True,
    ) -> Tensor:
        """Return the loss of a batch; call ``.backward()`` on the result.

        Collective over the sample group, and over the world for a joint loss.

        Parameters
        ----------
        method
            The method that draws and evaluates the samples.
        x, y
            The batch of this sample group, ``(B, ...)`` each; if ``stacked``, ``x`` is
            ``(s, B, ...)`` with an input for each sample of this rank. With several inputs or
            targets, dictionaries of tensors by name.
        samples
            ``S``, the number of samples of the sample group.
        step
            Training step (default: ``method.step``).
        weight
            ``(B,)`` weight of each item, 0 for padding.
        count
            Divisor of the sum over items (default ``B``): with masked items, the true number of
            items of the step over all data groups, divided by D.
        mask
            Weight of each value, or False for unknown values, broadcastable to ``y`` with as many
            axes; by name if there are several targets. The sum over items is still divided by
            ``count``: an item counts by its known values, and an item without any adds nothing.
        index
            ``(B,)`` positions of the items in their split, see :meth:`Method.forward`.
        undo
            ``undo(outputs, samples=...)`` maps outputs ``(k, B, ...)`` of some samples back to the
            frame of the targets, if the inputs were transformed. For batches that are evaluated in
            parts it also receives ``items=``, a slice of the batch.
        leads
            ``(B, k)`` weight of each of ``k`` lead times of each item. Outputs and targets are then
            ``(B, k, ...)``, and the loss of an item is the sum of the losses of its lead times with
            these weights.
        whole
            Whether the ranks of the group add up their values. False skips that exchange, for
            callers that combine the values themselves, and the comparison of the ranks' batches.

        Returns
        -------
        Tensor
            Scalar: on every rank the value for the whole sample group, or, if not ``whole``, for
            this rank's part. Its gradient is this rank's part, to be summed over the group, which
            :func:`hpcsamp.distribute` does.

        Raises
        ------
        UsageError
            If there are fewer samples than ranks or than the loss needs; if shapes do not fit; if
            the ranks of the group have different batches or settings; if the weights have changed
            since the last call but the step has not.
        """
        x, y = inputs_of(x, stacked), y if isinstance(y, Tensor) else inputs_of(y)
        check_call(method, x, y, samples, stacked)
        c, learns = self.collectives, torch.is_grad_enabled()
        if learns:
            self._noise.check(method, c, step)
        step = method.step if step is None else step
        self.check_samples(samples)
        self._check_weight(y, weight)
        count = y.shape[0] if count is None else count
        mask = inputs_of(mask) if isinstance(mask, Mapping) else mask
        items = Step(y, weight, mask, count, self.items, c, method)
        if leads is not None:
            items = items.by_lead(leads)
        own_samples = share(samples, c.sample_size, c.sample_rank)
        if learns:  # before there are gradients: this takes as much memory as they do
            first = slice(-(-y.shape[0] // self.accumulate))
            few = None if index is None else index[first]
            method.observe(
                x[:, first] if stacked else x[first], own_samples, step, stacked=stacked, index=few
            )
        factor = self.temperature * (1.0 if self.warmup is None else self.warmup(step))
        claims = {
            "number of samples S": samples,
            "number of training items N": self.items,
            "number of items to divide by (count, or the size of the batch)": float(count),
            "factor of the KL": float(factor),
            "loss": self._settings,
        }
        if learns:
            c.claims.update(claims)
        if whole and c.sample_size > 1:
            batch = {"x": None if stacked else x, "y": y, "index": index, "weight": weight}
            known = {
                f"batch ({n})": ", ".join(fingerprint(t) for t in tensors(v))
                for n, v in batch.items()
                if v is not None
            }
            compare({"step of the draws": step, **claims, **known}, c, "sample")
        ratio = penalty = early = None
        exchange = early_of(method) if learns else None
        if exchange is not None:
            self.check_method(method)
        check_parts(self.data_loss, self.kl, c.model_size)
        if self.data_loss.joint:
            ratio = factor * method.log_ratio(own_samples, step)
            penalty = ratio.new_zeros(())
        elif self.kl == "monte_carlo":
            penalty = method.log_ratio(own_samples, step).sum() * (factor / (samples * self.items))
        elif exchange is not None:
            penalty = self._penalty(method, factor)
            early = exchange.begin(penalty)
            penalty = penalty.detach()
        own_penalty = penalty is None and not self.data_loss.joint
        evaluation = LossEvaluation(
            self.data_loss, c, self.exact, method, x, stacked, index, undo, items, own_samples,
            samples, step, ratio, self.accumulate, self.graphs, early=early,
            leads=1 if leads is None else leads.shape[1],
            penalise=partial(self._penalise, method, factor) if own_penalty else None,
        )  # fmt: skip
        data = evaluation.value(self.memory)
        # After the data term: the backward pass begins with the term that was evaluated last, so
        # the gradient of a layer is complete when the data term has passed through the layer.
        if penalty is None:
            penalty = evaluation.penalty
        if penalty is None:
            penalty = self._penalty(method, factor)
        if whole and c.sample_size > 1:
            kind = torch.promote_types(data.dtype, penalty.dtype)
            data, penalty = c.sum_over_samples(torch.stack([data.to(kind), penalty.to(kind)]))
        kind = torch.promote_types(data.dtype, penalty.dtype)
        self._terms = torch.stack([data.detach().to(kind), penalty.detach().to(kind)])
        return data + penalty

    @property
    def parts(self) -> Parts:
        """The two terms of the last loss; on a GPU, reading them waits for it."""
        return Parts() if self._terms is None else Parts(*self._terms.tolist())

    def _penalty(self, method: Method, factor: float) -> Tensor:
        """Return this rank's share of the penalty, per item."""
        c = self.collectives
        part = method.placement.penalty_share(c.sample_rank, c.sample_size)
        with here.part("penalty"):
            return c.sum_over_model(method.penalty(*part) * (factor / self.items))

    def _penalise(
        self, method: Method, factor: float, gradients: list[Tensor | None]
    ) -> Tensor | None:
        """Add the gradient of this rank's share of the penalty, and return it; None if neither."""
        c, factor = self.collectives, factor / self.items
        part = method.placement.penalty_share(c.sample_rank, c.sample_size)
        value = method.add_penalty(gradients, factor, *part)
        return None if value is None else c.sum_over_model(value * factor)

    def check_method(self, method: Method) -> None:
        """Check that the steps of a method can be captured, or exchanged in buckets, as asked for.

        Raises
        ------
        UsageError
            If they cannot; the message names the reason.
        """
        if self.graphs is not None:
            self.graphs.settle(method, self.collectives)
        if early_of(method) is not None:
            check_early(method, self.data_loss, self.kl, self.memory)

    def check_samples(self, samples: int) -> None:
        """Check that S samples are enough for this loss on these ranks; each call does this too.

        Raises
        ------
        UsageError
            If there are fewer samples than ranks, or than the loss needs.
        """
        loss, ranks = self.data_loss, self.collectives.sample_size
        if samples < ranks:
            raise UsageError(
                f"S = {samples} samples cannot be split over P = {ranks} "
                f"ranks; every rank needs at least one"
            )
        least = loss.least_samples
        if (samples if self.exact else samples // ranks) < least:
            where = "" if self.exact else " on each rank with loss.exact = false"
            raise UsageError(
                f"{type(loss).__name__} needs at least {least} samples{where}; there are "
                f"S = {samples} on P = {ranks} ranks"
            )

    @staticmethod
    def _check_weight(y: Tensor, weight: Tensor | None) -> None:
        if weight is not None and weight.shape != y.shape[:1]:
            raise UsageError(
                f"weights of items have shape {tuple(weight.shape)}, but there are {len(y)} items; "
                f"pass weights of values as mask"
            )


def check_parts(data_loss: DataLoss, kl: str, model_size: int) -> None:
    """Refuse a loss that needs densities of whole draws if each model rank holds only a part.

    Raises
    ------
    UsageError
        If the loss needs such densities and there are several model ranks.
    """
    if model_size > 1 and (data_loss.joint or kl == "monte_carlo"):
        raise UsageError(
            f"{'this loss' if data_loss.joint else 'Monte Carlo KL'} needs the densities of whole "
            f"draws of weights, but each of the {model_size} model ranks holds only a part of a "
            f'draw: set loss.kl = "analytic" and choose a loss without density ratios, or set '
            f"parallel.model = 1"
        )


def _one_of(what: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UsageError(f"loss.{what} = {value!r} is unknown; choose from {', '.join(known)}")
