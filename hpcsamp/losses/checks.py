"""Check the arguments of an ELBO and of its calls in a user's own training loop."""

from __future__ import annotations

import inspect
import math
import operator
from typing import Any
from weakref import ReferenceType, ref

import torch
from torch import Tensor, nn

from hpcsamp.collectives import Collectives, transport_of
from hpcsamp.errors import UsageError
from hpcsamp.grid import Topology
from hpcsamp.losses.base import DataLoss
from hpcsamp.methods import Method
from hpcsamp.weights import Inputs


def check_arguments(
    data_loss: Any,
    items: Any,
    collectives: Any,
    temperature: Any,
    warmup: Any,
    accumulate: Any = 1,
) -> None:
    """Check that the arguments of an ELBO have the right types.

    Raises
    ------
    UsageError
        If an argument is invalid; the message gives its name, its value and the allowed values.
    """
    if not isinstance(data_loss, DataLoss):
        hint = "e.g. hs.losses.PredictiveNLL(hs.losses.Categorical())"
        if isinstance(data_loss, str):
            hint = "hs.losses.make(name, task) makes a loss by its name"
        raise UsageError(f"ELBO: data_loss must be a loss, got {_named(data_loss)}; {hint}")
    if not is_whole(items) or items < 1:
        raise UsageError(
            f"ELBO: items must be N, the number of training items, a whole number of at least 1; "
            f"got {items!r}"
        )
    if collectives is not None and not isinstance(collectives, Collectives):
        hint = "; make them with hs.choose(topology)" if isinstance(collectives, Topology) else ""
        raise UsageError(f"ELBO: collectives must be Collectives, got {_named(collectives)}{hint}")
    number = isinstance(temperature, (int, float)) and not isinstance(temperature, bool)
    if not number or not 0 <= temperature < math.inf:
        raise UsageError(f"ELBO: temperature must be a number of at least 0, got {temperature!r}")
    if warmup is not None and not callable(warmup):
        raise UsageError(
            f"ELBO: warmup must be a function of the step, e.g. hs.losses.schedules.linear(100); "
            f"got {warmup!r}"
        )
    if not is_whole(accumulate) or accumulate < 1:
        raise UsageError(
            f"ELBO: accumulate must be the number of parts that a batch is split into, a whole "
            f"number of at least 1; got {accumulate!r}"
        )


def check_call(method: Any, x: Any, y: Any, samples: Any, stacked: bool) -> None:
    """Check that a loss is called with a method and a batch.

    Raises
    ------
    UsageError
        If an argument is invalid; the message gives its name, its value and the allowed values.
    """
    if not isinstance(method, Method):
        hint = "; wrap a module, e.g. in hs.MeanField(module)" * isinstance(method, nn.Module)
        raise UsageError(f"loss(method, x, y): method must be a method, got {_named(method)}{hint}")
    for name, value in {"x": x, "y": y}.items():
        if not isinstance(value, (Tensor, Inputs)):
            raise UsageError(f"loss(method, x, y): {name} must be a tensor, got {_named(value)}")
    if not is_whole(samples) or samples < 1:
        raise UsageError(
            f"loss(..., samples=S): S must be a whole number of at least 1, the samples of all "
            f"ranks of a sample group; got {samples!r}"
        )
    axes, items = (2, x.shape[1:2]) if stacked else (1, x.shape[:1])
    if x.dim() < axes or y.dim() < 1 or items != y.shape[:1] or not len(y):
        raise UsageError(
            f"loss(method, x, y): x {tuple(x.shape)} and y {tuple(y.shape)} must have the same "
            f"number of items, at least one"
        )


def is_whole(value: Any) -> bool:
    """Whether a value is an integer of Python or NumPy."""
    if isinstance(value, (bool, Tensor)):
        return False
    try:
        operator.index(value)
    except TypeError:
        return False
    return True


def check_early(method: Method, loss: DataLoss, kl: str, memory: str) -> None:
    """Refuse an exchange in buckets if a gradient is not complete layer by layer within the loss.

    Raises
    ------
    UsageError
        If it is not; the message names the reason.
    """
    if loss.joint or kl == "monte_carlo":
        why = "the densities of draws have gradients that are complete only at the end"
    elif memory == "keep":
        why = 'it needs loss.memory = "recompute", or "stream" for a linear loss, not "keep"'
    else:
        return
    raise UsageError(
        f"parallel.buckets is not possible for {type(method).__name__}: {why}; set it to 1"
    )


class NoiseWatch:
    """Detect a training loop that never advances ``method.step`` and so repeats its noise.

    A few weights of each parameter are compared from one call to the next.
    """

    def __init__(self) -> None:
        self._last: tuple[ReferenceType[Method], int, Tensor] | None = None

    def check(self, method: Method, collectives: Collectives, step: int | None) -> None:
        """Called before each evaluation with gradients; raises if the noise would repeat.

        Parameters
        ----------
        step
            Step that the caller passed, which may be repeated; None for ``method.step``.

        Raises
        ------
        UsageError
            If the weights have changed since the last call but the step has not, or if gradients
            are exchanged over other ranks than the loss.
        """
        transport = transport_of(method)
        if transport is not None:
            self._check_grid(transport, collectives)
            return
        if step is not None:
            return
        parts = [_some(p) for p in method.parameters()]
        if not parts:
            return
        weights = torch.cat(parts)
        if self._last is not None:
            before, then, old = self._last
            changed = old.shape == weights.shape and not torch.equal(old, weights)
            if before() is method and then == method.step and changed:
                raise UsageError(
                    f"the weights have changed since the last loss, but method.step is still "
                    f"{then}, so that the same noise would be drawn again: wrap the optimiser in "
                    f"hs.distribute(optimizer, collectives, method), or pass loss(..., step=)"
                )
        self._last = ref(method), method.step, weights

    @staticmethod
    def _check_grid(transport: Collectives, own: Collectives) -> None:
        grids = [(c.sample_size, c.data_size) for c in (own, transport)]
        if grids[0] != grids[1]:
            ours, theirs = (f"{p} sample x {d} data ranks" for p, d in grids)
            raise UsageError(
                f"the loss is computed on {ours}, but gradients are exchanged on {theirs}: pass "
                f"the same collectives to ELBO and hs.distribute()"
            )


def _some(p: Tensor) -> Tensor:
    flat = p.detach().reshape(-1)
    return flat[:: max(1, len(flat) // 16)].to("cpu", torch.float64, copy=True)


def _named(value: Any) -> str:
    if inspect.isclass(value):
        return f"the class {value.__name__}, not an instance of it"
    return f"{value!r}" if isinstance(value, (str, int, float)) else f"a {type(value).__name__}"
