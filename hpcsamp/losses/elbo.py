"""The negative evidence lower bound, per item: data term + temperature * KL / N.

(Blundell et al. 2015; Algorithm 1 of the paper.) This is where samples meet ranks: the data term is
the sample group's and the KL is shared out over its ranks. Which activations live until the
backward pass is decided in :mod:`.evaluation`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from hpcsamp.collectives import Alone, Collectives
from hpcsamp.collectives.sameness import compare, fingerprint, settings_of
from hpcsamp.errors import UsageError
from hpcsamp.grid import share
from hpcsamp.losses.base import DataLoss
from hpcsamp.losses.batch import Step
from hpcsamp.losses.checks import NoiseWatch, check_arguments, check_call
from hpcsamp.losses.evaluation import Evaluation
from hpcsamp.methods import Method
from hpcsamp.names import KL, Memory
from hpcsamp.watchdog import here
from hpcsamp.weights import inputs_of
from hpcsamp.weights.inputs import tensors


@dataclass
class Parts:
    """The last loss by its parts: ``data`` and ``penalty`` (already times its factor).

    A joint loss has no penalty: all of it is ``data``.
    """

    data: float = 0.0
    penalty: float = 0.0

    @property
    def total(self) -> float:
        """The loss."""
        return self.data + self.penalty


class ELBO:
    """``loss = mean over items of the data loss + factor * penalty / N``.

    Parameters
    ----------
    data_loss
        A loss of all S outputs.
    items
        ``N``, the number of training items, at least 1: the KL counts once per pass over the data.
    collectives
        Exchange with the other ranks (default: a single process).
    temperature
        Factor of the KL; 1 is Bayes, less is a "cold" posterior. Reported wherever results are.
    warmup
        Factor of the KL by step, e.g. one of :mod:`hpcsamp.losses.schedules`; multiplies
        ``temperature``.
    kl
        ``"analytic"``: the method's own penalty, its gradient shared out over the group by slices
        of the parameters. ``"monte_carlo"``: ``mean_s log q(w_s) - log p(w_s)`` of the draws, as
        torch_blue has it; each rank takes its own samples.
    exact
        False: the paper's approximation. Every rank evaluates the data loss of its own samples as
        if they were all, and the ranks' losses are averaged.
    memory
        ``"auto"``: ``stream`` for linear losses, else ``keep``.
    accumulate
        Parts of its items that a batch is taken in, one after the other: loss and gradient are
        those of the whole batch, activations those of one part. A batch of fewer items is taken
        item by item.

    Raises
    ------
    UsageError
        For arguments of a wrong kind, ``memory="stream"`` with a loss that is not linear, or an
        unknown memory mode or KL.
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
    ) -> None:
        check_arguments(data_loss, items, collectives, temperature, warmup, accumulate)
        _one_of("memory", memory, get_args(Memory))
        _one_of("kl", kl, get_args(KL))
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
        self.kl = kl
        self.accumulate = accumulate
        self.parts = Parts()
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
        whole: bool = True,
    ) -> Tensor:
        """The loss of a batch; call ``.backward()`` on it.

        Collective over the sample group; over the world for a joint loss.

        Parameters
        ----------
        method
            What draws and evaluates the samples.
        x, y
            The batch of this sample group, ``(B, ...)`` each; ``x`` is ``(s, B, ...)`` if
            ``stacked``, for this rank's samples. Dictionaries of tensors by name, where there are
            several inputs or targets.
        samples
            ``S`` over the sample group.
        step
            Training step (default: ``method.step``).
        weight
            ``(B,)`` weight per item, 0 for padding.
        count
            What to divide the sum over items by (default ``B``): with masked items, the true
            items of the step over all data groups, divided by D.
        mask
            Weight of each value, or False for those that are not known, broadcastable to ``y`` with
            as many axes; by name if there are several targets. The sum over items is divided by
            ``count`` all the same: an item counts by its known values, and one without any adds
            nothing.
        index
            ``(B,)`` positions of the items in their split, see :meth:`Method.forward`.
        undo
            ``undo(outputs, samples=...)`` takes outputs ``(k, B, ...)`` of some samples back to
            where the targets are, if the inputs were moved. Where batches are taken in parts it
            also gets ``items=``, a slice of the batch.
        whole
            Whether the ranks of the group add up their values. False spares that exchange where
            the values travel otherwise, and the comparison of their batches.

        Returns
        -------
        Tensor
            Scalar: the value of the whole sample group on every rank, or of this rank's part; its
            gradient is this rank's part, to be summed over the group (:func:`hpcsamp.distribute`
            does).

        Raises
        ------
        UsageError
            If there are fewer samples than ranks or than the loss needs, or shapes do not fit; if
            the ranks of the group have different batches or settings; if the weights have changed
            and the step to draw for has not.
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
        mine = share(samples, c.sample_size, c.sample_rank)
        factor = self.temperature * (1.0 if self.warmup is None else self.warmup(step))
        claims = {
            "number of samples S": samples,
            "number of training items N": self.items,
            "number of items to divide by (count, else the batch's)": float(count),
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
            compare({"step to draw for": step, **claims, **known}, c, "sample")
        ratio = None
        check_parts(self.data_loss, self.kl, c.model_size)
        if self.data_loss.joint:
            ratio = factor * method.log_ratio(mine, step)
            penalty = ratio.new_zeros(())
        elif self.kl == "monte_carlo":
            penalty = method.log_ratio(mine, step).sum() * (factor / (samples * self.items))
        else:
            part = method.placement.penalty_share(c.sample_rank, c.sample_size)
            with here.part("penalty"):
                penalty = c.sum_over_model(method.penalty(*part) * (factor / self.items))
        data = Evaluation(
            self.data_loss, c, self.exact, method, x, stacked, index, undo, items, mine, samples,
            step, ratio, self.accumulate,
        ).value(self.memory)  # fmt: skip
        if whole and c.sample_size > 1:
            kind = torch.promote_types(data.dtype, penalty.dtype)
            data, penalty = c.sum_over_samples(torch.stack([data.to(kind), penalty.to(kind)]))
        self.parts = Parts(data.item(), penalty.item())
        return data + penalty

    def check_samples(self, samples: int) -> None:
        """Whether S samples will do for this loss on these ranks; a call checks it as well.

        Raises
        ------
        UsageError
            If there are fewer than ranks, or than the loss needs.
        """
        loss, ranks = self.data_loss, self.collectives.sample_size
        if samples < ranks:
            raise UsageError(
                f"S = {samples} samples cannot be split over P = {ranks} "
                f"ranks; every rank needs at least one"
            )
        least = loss.least_samples
        if (samples if self.exact else samples // ranks) < least:
            where = "" if self.exact else " on each rank, as loss.exact = false has no others"
            raise UsageError(
                f"{type(loss).__name__} needs at least {least} samples{where}; there are "
                f"S = {samples} on P = {ranks} ranks"
            )

    @staticmethod
    def _check_weight(y: Tensor, weight: Tensor | None) -> None:
        if weight is not None and weight.shape != y.shape[:1]:
            raise UsageError(
                f"weights of items have shape {tuple(weight.shape)}, there are {len(y)} items; "
                f"weights of values are given as mask"
            )


def check_parts(data_loss: DataLoss, kl: str, model_size: int) -> None:
    """Refuse a loss that needs the densities of whole draws, of which model ranks hold parts.

    Raises
    ------
    UsageError
        If there are several model ranks.
    """
    if model_size > 1 and (data_loss.joint or kl == "monte_carlo"):
        raise UsageError(
            f"{'this loss' if data_loss.joint else 'Monte Carlo KL'} needs the densities of whole "
            f"draws of weights, of which the {model_size} model ranks hold parts: take loss.kl = "
            f'"analytic" and a loss without density ratios, or parallel.model = 1'
        )


def _one_of(what: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UsageError(f"loss.{what} = {value!r}; there is {', '.join(known)}")
