"""The optimiser of a run, by its name in ``torch.optim``."""

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

#: Optimisers that treat each element alone, so that a part can be updated without the rest.
ELEMENTWISE = {
    "Adadelta", "Adagrad", "Adam", "AdamW", "Adamax", "ASGD", "NAdam", "RAdam", "RMSprop", "Rprop",
    "SGD",
}  # fmt: skip


def updates(config: RunConfig, method: Method, collectives: Collectives) -> Updates:
    """What of a method this rank updates, in the groups of the configuration.

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
            "optimizer.groups cannot be had with optimizer.sharded, whose parts are cut anywhere"
        )
    if method.optimizers:
        raise UsageError(
            f"optimizer.groups cannot be had with {c.name} of method {config.method.name!r}, which "
            f"moves all weights by one rate"
        )
    groups = [Group(g.pattern, g.of, _options(config, g.options)) for g in c.groups]
    return Divided(made, method, groups)


def _options(config: RunConfig, given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a group, checked against those that the optimiser has for each group."""
    name = config.optimizer.name
    kind = _kind(torch.optim, torch.optim.Optimizer, "optimizer", name)
    probe = kind([torch.nn.Parameter(torch.zeros(1))])  # its defaults; lr is checked by itself
    own = {"foreach", "fused", "capturable", "differentiable", "maximize"}
    known = {key for key in probe.defaults if key not in own}
    for key in given:
        if key not in known:
            raise UsageError(
                f"unknown key 'optimizer.groups.{key}' for {name}{suggest(key, known)}; a group "
                f"has pattern, of, {', '.join(sorted(known))}"
            )
    return free.check("optimizer.groups", name, kind, given)


def optimizer(config: RunConfig, method: Method, parts: Updates) -> torch.optim.Optimizer:
    """An optimiser of ``torch.optim``, or the method's own, by its name; fused where it can be.

    The parameters are few flat tensors, so a fused update is one pass over memory (Adam of 5.4
    million parameters on a CPU: 6 ms for 34 ms).

    Parameters
    ----------
    parts
        What of the method this rank updates.

    Raises
    ------
    UsageError
        For an unknown name or argument, one that does not suit the method, or
        ``optimizer.sharded`` where it cannot be had.
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
            f"optimizer.sharded cannot be had with {c.name}, which looks at whole tensors; "
            f"with {', '.join(sorted(ELEMENTWISE))} it can"
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
    """An object of one of torch's classes, by the name in a table of the configuration."""
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
