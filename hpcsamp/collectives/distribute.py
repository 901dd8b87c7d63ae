"""Train a method on several ranks with an ordinary torch optimiser.

Gradients are exchanged at the end of each backward pass, so that ``.grad`` holds that of all ranks
before anybody looks at it: a ``GradScaler``, a user's own clipping, or ``optimizer.step(closure)``
do the same on every rank, and on any grid.
"""

from __future__ import annotations

import inspect
from typing import Any
from weakref import ReferenceType, WeakKeyDictionary, ref

import torch
from torch import nn

from hpcsamp.collectives.base import Collectives
from hpcsamp.collectives.exchange import Exchange, ids, parameters_of
from hpcsamp.collectives.replicas import make_alike
from hpcsamp.collectives.shards import Shards
from hpcsamp.errors import UsageError
from hpcsamp.grid import Topology
from hpcsamp.methods.base import Method

#: The newest of each method and of each optimiser.
_newest: WeakKeyDictionary[Any, ReferenceType[Exchange]] = WeakKeyDictionary()


def distribute(
    optimizer: torch.optim.Optimizer,
    collectives: Collectives,
    method: Method,
    *,
    clip: float | None = None,
    shards: Shards | None = None,
    compare_every: int = 1,
) -> torch.optim.Optimizer:
    """Make an optimiser train a method with the gradient of all ranks. Collective over the world.

    All ranks start from the first one's weights, frozen parameters and buffers (where each sample
    has weights of its own, the ranks of a data group do). The optimiser stays a torch optimiser, so
    schedules and state dictionaries work as ever. Each backward pass ends with one exchange, in
    which its gradient is summed over samples and averaged over data and then added to ``.grad``;
    several backward passes before a step (over micro-batches) thus add up, and draw the same noise.
    ``optimizer.step()`` advances ``method.step``, so that the next one draws anew. Gradients that
    were assigned by hand are exchanged by the step.

    What ranks must have in common (hyperparameters, S, N, the seed, a part of the weights) is
    compared with each exchange.

    Parameters
    ----------
    optimizer
        Any torch optimiser of all trainable parameters of the method, in one or several groups.
    collectives
        The transport, see :func:`hpcsamp.collectives.choose`; the loss needs the same.
    method
        What is trained. Distributing another optimiser over it later replaces this one.
    clip
        Largest norm of the gradient of a step; of each member's, where there are members.
    shards
        If the optimiser was built on ``shards.parts``: this rank updates these alone, and the ranks
        of the sample group give each other theirs.
    compare_every
        Steps between comparisons, which cost an exchange of a few numbers; the same on all ranks.

    Returns
    -------
    torch.optim.Optimizer
        The same object.

    Raises
    ------
    UsageError
        For arguments of a wrong kind, an optimiser whose parameters are not those of the method, or
        one that cannot work on parts of the weights; if ranks differ in what they should have in
        common. Later, by ``backward`` or ``step``: if parameters were added, frozen, converted or
        replaced.
    """
    _check(optimizer, collectives, method, clip, shards)
    trouble = _other_parameters(optimizer, method, shards)
    make_alike(method, optimizer, collectives, trouble, shards is not None)
    made = Exchange(optimizer, collectives, method, clip, shards, compare_every)
    for before in {_newest_of(method), _newest_of(optimizer)} - {None}:
        before.retire(optimizer)  # type: ignore[union-attr]
    _newest[method] = _newest[optimizer] = ref(made)
    return optimizer


def transport_of(method: Method) -> Collectives | None:
    """By what the gradients of a method are exchanged; None if no optimiser was distributed."""
    made = _newest_of(method)
    return None if made is None else made.collectives


def _newest_of(thing: Any) -> Exchange | None:
    found = _newest.get(thing)
    return None if found is None else found()


def _other_parameters(
    optimizer: torch.optim.Optimizer, method: Method, shards: Shards | None
) -> UsageError | None:
    """In which way the optimiser's parameters are not those of the method."""
    kind, whose = type(optimizer).__name__, type(method).__name__
    named = dict(method.named_parameters())
    trained = {n: p for n, p in named.items() if p.requires_grad}
    own = parameters_of(optimizer)
    kinds = {f"{p.dtype} on {p.device}" for p in trained.values()}
    if len(kinds) != 1:
        return UsageError(
            f"the parameters of {whose} are {' and '.join(sorted(kinds))}; they must be of one "
            f"type on one device"
            if kinds
            else f"{whose} has no parameters to train: all are frozen"
        )
    if shards is not None:
        whole = ids(shards.parameters) == ids(trained.values())
        if whole and ids(own) == ids(shards.parts):
            return None
        return UsageError(f"{kind} must be made of shards.parts, of the shards of {whose}")
    others = len(ids(own) - ids(named.values()))
    if others:
        return UsageError(
            f"{others} of the {len(own)} parameters of {kind} are not of the {whose} that it is "
            f"to train; make it of method.parameters(), and what else is to learn a part of the "
            f"module"
        )
    left = [repr(n) for n, p in trained.items() if id(p) not in ids(own)]
    if left:
        return UsageError(
            f"{kind} lacks {', '.join(left[:3])}{' ...' * (len(left) > 3)} of the {whose} that "
            f"it is to train: make it of all method.parameters(), and freeze what is not to "
            f"learn by requires_grad_(False)"
        )
    return None


def _check(optimizer: Any, collectives: Any, method: Any, clip: Any, shards: Any) -> None:
    """Whether the arguments are what they must be, each by itself."""
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
                hint = "; collectives are made of a topology"
            elif isinstance(value, nn.Module):
                hint = "; a module is wrapped by a method"
            raise UsageError(f"{said}: {name} must be e.g. {example}, got {a} {what}{hint}")
    if clip is not None and not (
        isinstance(clip, (int, float)) and not isinstance(clip, bool) and clip > 0
    ):
        raise UsageError(f"{said}: clip must be a number greater than 0, got {clip!r}")
    if shards is not None and not isinstance(shards, Shards):
        raise UsageError(f"{said}: shards must be Shards, got {type(shards).__name__}")
    needed = inspect.signature(optimizer.step).parameters.get("closure")
    if needed is not None and needed.default is inspect.Parameter.empty:
        kind = type(optimizer).__name__
        if shards is not None or method.members is not None:
            raise UsageError(
                f"{kind} looks at all weights together, but a rank has "
                f"{'a shard' if method.members is None else 'some members'} of them alone; use an "
                f"optimiser that steps without a closure"
            )
