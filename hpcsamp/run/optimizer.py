"""Create the optimiser of a run by its name in ``torch.optim``."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch

from hpcsamp import arguments as free
from hpcsamp.collectives import Collectives, Divided, Group, Updates, updates_of
from hpcsamp.config import RunConfig
from hpcsamp.errors import UsageError
from hpcsamp.methods import Method
from hpcsamp.methods.eager import eager
from hpcsamp.spelling import suggest

#: Optimisers that treat each element separately, so that a part can be updated without the rest.
ELEMENTWISE = {
    "Adadelta", "Adagrad", "Adam", "AdamW", "Adamax", "ASGD", "NAdam", "RAdam", "RMSprop", "Rprop",
    "SGD",
}  # fmt: skip


def updates(config: RunConfig, method: Method, collectives: Collectives) -> Updates:
    """Return the part of a method's parameters that this rank updates, in the configured groups.

    Raises
    ------
    UsageError
        If groups do not fit the method or the optimiser.
    """
    c = config.optimizer
    made = updates_of(method, collectives, bool(c.sharded))
    if not c.groups:
        return made
    if c.sharded:
        raise UsageError(
            "optimizer.groups cannot be combined with optimizer.sharded, which would split groups"
        )
    if method.optimizers:
        raise UsageError(
            f"optimizer.groups cannot be combined with {c.name} of method {config.method.name!r}, "
            f"which updates all weights with one rate"
        )
    groups = [Group(g.pattern, g.of, _options(config, g.options)) for g in c.groups]
    return Divided(made, method, groups)


def _options(config: RunConfig, given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a group, checked against those that the optimiser accepts for each group."""
    name = config.optimizer.name
    kind = _kind(torch.optim, torch.optim.Optimizer, "optimizer", name)
    probe = kind([torch.nn.Parameter(torch.zeros(1))])  # for its defaults; lr is checked separately
    own = {"foreach", "fused", "capturable", "differentiable", "maximize"}
    known = {key for key in probe.defaults if key not in own}
    for key in given:
        if key not in known:
            raise UsageError(
                f"unknown key 'optimizer.groups.{key}' for {name}{suggest(key, known)}; the keys "
                f"of a group are pattern, of, {', '.join(sorted(known))}"
            )
    return free.check("optimizer.groups", name, kind, given)


def optimizer(config: RunConfig, method: Method, parts: Updates) -> torch.optim.Optimizer:
    """Create an optimiser of ``torch.optim``, or one of the method, by name; fused if possible.

    The parameters are a few flat tensors, so a fused update is one pass over memory (Adam with 5.4
    million parameters on a CPU: 6 ms instead of 34 ms).

    Parameters
    ----------
    parts
        Parts of the method's parameters that this rank updates.

    Raises
    ------
    UsageError
        If a name or an argument is unknown, the optimiser does not suit the method, or
        ``optimizer.sharded`` is set for an optimiser that does not support it.
    """
    c = config.optimizer
    own = method.optimizers
    if own and c.name not in own:
        raise UsageError(
            f"method {config.method.name!r} needs optimizer.name = "
            f"{' or '.join(repr(n) for n in own)}, not {c.name!r}"
        )
    if c.sharded and c.name not in ELEMENTWISE:
        raise UsageError(
            f"optimizer.sharded cannot be combined with {c.name}, which needs whole tensors; "
            f"it works with {', '.join(sorted(ELEMENTWISE))}"
        )
    parameters = parts.parts
    if own:
        made: torch.optim.Optimizer = free.construct(
            "optimizer", c.name, own[c.name], c.arguments, parameters
        )
        return made
    arguments = dict(c.arguments)
    kind = getattr(torch.optim, c.name, None)
    ways = {"fused", "foreach", "differentiable"}
    if inspect.isclass(kind) and "fused" in inspect.signature(kind).parameters:
        arguments |= {} if ways & arguments.keys() or not parts.contiguous else {"fused": True}
    return named(torch.optim, torch.optim.Optimizer, "optimizer", c.name, parameters, arguments)


def named(room: Any, base: type, section: str, name: str, first: Any, arguments: Any) -> Any:
    """Create an object of one of torch's classes, named in a table of the configuration."""
    kind = _kind(room, base, section, name)
    return free.construct(section, name, kind, arguments, first)


def _kind(room: Any, base: type, section: str, name: str) -> Any:
    known = [
        n
        for n, v in vars(room).items()
        if inspect.isclass(v) and issubclass(v, base) and v is not base and not n.startswith("_")
    ]
    if name not in known:
        raise UsageError(f"{section}.name = {name!r} is not in torch{suggest(name, known)}")
    kind = getattr(room, name)
    return eager(kind) if base is torch.optim.Optimizer else kind
