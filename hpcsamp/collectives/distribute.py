"""Train a method on several ranks with an ordinary torch optimiser.

Gradients are exchanged at the end of each backward pass, so that ``.grad`` is the gradient of all
ranks before any code reads it: a ``GradScaler``, a user's own clipping, and
``optimizer.step(closure)`` behave in the same way on every rank and on any grid.
"""

from __future__ import annotations

import inspect
from typing import Any
from weakref import ReferenceType, WeakKeyDictionary, ref

import torch
from torch import nn

from hpcsamp.collectives.base import Collectives
from hpcsamp.collectives.buckets import check_buckets
from hpcsamp.collectives.data_group import DataGroup
from hpcsamp.collectives.early import EarlyExchange
from hpcsamp.collectives.exchange import GradientExchange
from hpcsamp.collectives.replicas import make_alike
from hpcsamp.collectives.separable import mixes
from hpcsamp.collectives.updates import Updates, updates_of
from hpcsamp.errors import UsageError
from hpcsamp.grid import Topology
from hpcsamp.methods.base import Method

#: The newest exchange of each method and of each optimiser.
_newest: WeakKeyDictionary[Any, ReferenceType[GradientExchange]] = WeakKeyDictionary()


def distribute(
    optimizer: torch.optim.Optimizer,
    collectives: Collectives,
    method: Method,
    *,
    clip: float | None = None,
    updates: Updates | None = None,
    compare_every: int = 1,
    buckets: int = 1,
) -> torch.optim.Optimizer:
    """Make an optimiser train a method with the gradient of all ranks. Collective over the world.

    All ranks start from the weights, frozen parameters and buffers of the first (if each sample has
    weights of its own, from those of the first rank of the data group). The optimiser stays a torch
    optimiser, so schedules and state dictionaries work as usual. Each backward pass ends with one
    exchange, in which its gradient is summed over samples and averaged over data and then added to
    ``.grad``; several backward passes before a step (over micro-batches) thus add up, and draw the
    same noise. ``optimizer.step()`` advances ``method.step``, so that the next step draws new
    noise. Gradients that were assigned by hand are exchanged by the step.

    Values that must agree between ranks (hyperparameters, S, N, the seed, a part of the weights)
    are compared in each exchange.

    Parameters
    ----------
    optimizer
        Any torch optimiser of all trainable parameters of the method, in one or several groups.
    collectives
        The transport, see :func:`hpcsamp.collectives.choose`; use the same one for the loss.
    method
        Method to train. Distributing another optimiser over it later replaces this one.
    clip
        Largest norm of the gradient of a step; for ensembles, of the gradient of each member.
    updates
        If the optimiser was built on ``updates.parts``, see
        :func:`~hpcsamp.collectives.updates.updates_of`: this rank updates only these parts and
        receives the others from the ranks of its sample group.
    compare_every
        Steps between comparisons, which cost an exchange of a few numbers; the same on all ranks.
    buckets
        Largest number of parts in which the gradient is exchanged, each as soon as the backward
        pass has finished it (:mod:`hpcsamp.collectives.buckets`); the same on all ranks.

    Returns
    -------
    torch.optim.Optimizer
        The same object.

    Raises
    ------
    UsageError
        If an argument has a wrong type, the gradient cannot be exchanged in buckets, the parameters
        of the optimiser are not those of the method, the optimiser cannot work on parts of the
        weights or mixes them (as Muon and Adafactor mix the members of an ensemble), or values that
        must agree between ranks differ. ``backward`` and ``step`` raise it if parameters were
        added, frozen, converted or replaced since.
    """
    _check(optimizer, collectives, method, clip, updates)
    updates = updates or updates_of(method, collectives)
    _check_closure(optimizer, updates)
    trouble = (
        check_buckets(buckets, method, updates)
        or _of_two_types(method)
        or updates.mismatch(optimizer, method)
        or method.unfit(optimizer)
        or mixes(optimizer, updates.placement, method)
    )
    make_alike(method, optimizer, collectives, trouble, updates.placement, {"buckets": buckets})
    method.join(DataGroup(collectives, method.placement.modules))
    collectives.expect(updates.largest)
    made = GradientExchange(optimizer, collectives, method, clip, updates, compare_every, buckets)
    for before in {_newest_of(method), _newest_of(optimizer)} - {None}:
        before.retire(optimizer)  # type: ignore[union-attr]
    _newest[method] = _newest[optimizer] = ref(made)
    return optimizer


def transport_of(method: Method) -> Collectives | None:
    """Return the exchange of a method's gradients; None if no optimiser was distributed."""
    made = _newest_of(method)
    return None if made is None else made.collectives


def early_of(method: Method) -> EarlyExchange | None:
    """Return what exchanges a method's gradient within a loss; None if that is not asked for."""
    made = _newest_of(method)
    return None if made is None else made.early


def _newest_of(thing: Any) -> GradientExchange | None:
    found = _newest.get(thing)
    return None if found is None else found()


def _of_two_types(method: Method) -> UsageError | None:
    """Return an error unless the trained parameters have one dtype and one device."""
    kinds = {f"{p.dtype.to_real()} on {p.device}" for p in method.parameters() if p.requires_grad}
    if len(kinds) == 1:
        return None
    whose = type(method).__name__
    return UsageError(
        f"the parameters of {whose} are {' and '.join(sorted(kinds))}; they must be of one "
        f"type on one device"
        if kinds
        else f"{whose} has no parameters to train: all are frozen"
    )


def _check(optimizer: Any, collectives: Any, method: Any, clip: Any, updates: Any) -> None:
    """Return an error if an argument has the wrong type."""
    said = "hs.distribute(optimizer, collectives, method)"
    wanted: tuple[tuple[str, Any, Any, str], ...] = (
        ("optimizer", optimizer, torch.optim.Optimizer, "torch.optim.Adam(method.parameters())"),
        ("collectives", collectives, Collectives, "hs.choose(topology)"),
        ("method", method, Method, "hs.MeanField(module)"),
    )
    for name, value, kind, example in wanted:
        if not isinstance(value, kind):
            what = value.__name__ if inspect.isclass(value) else type(value).__name__
            a = "the class" if inspect.isclass(value) else "a"
            hint = ""
            if isinstance(value, Topology):
                hint = "; collectives are created from a topology"
            elif isinstance(value, nn.Module):
                hint = "; a module is wrapped by a method"
            raise UsageError(f"{said}: {name} must be e.g. {example}, got {a} {what}{hint}")
    if clip is not None and not (
        isinstance(clip, (int, float)) and not isinstance(clip, bool) and clip > 0
    ):
        raise UsageError(f"{said}: clip must be a number greater than 0, got {clip!r}")
    if updates is not None and not isinstance(updates, Updates):
        raise UsageError(f"{said}: updates must be Updates, got {type(updates).__name__}")


def _check_closure(optimizer: torch.optim.Optimizer, updates: Updates) -> None:
    """Return an error if the optimiser's parameters are not those that it must update."""
    needed = inspect.signature(optimizer.step).parameters.get("closure")
    partial = updates.placement.partial
    if partial and needed is not None and needed.default is inspect.Parameter.empty:
        raise UsageError(
            f"{type(optimizer).__name__} uses all weights together, but a rank has only "
            f"{partial} of them; use an optimiser that steps without a closure"
        )
