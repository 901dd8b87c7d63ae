"""The optimiser of a run, by its name in ``torch.optim``."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from hpcsamp import arguments as free
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


def optimizer(config: RunConfig, method: Method, parameters: Any) -> torch.optim.Optimizer:
    """An optimiser of ``torch.optim``, or the method's own, by its name; fused where it can be.

    The parameters are few flat tensors, so a fused update is one pass over memory (Adam of 5.4
    million parameters on a CPU: 6 ms for 34 ms).

    Parameters
    ----------
    parameters
        What of the method's this rank updates.

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
    if own:
        made: torch.optim.Optimizer = free.construct(
            "optimizer", c.name, own[c.name], c.arguments, parameters
        )
        return made
    arguments = dict(c.arguments)
    kind = getattr(torch.optim, c.name, None)
    ways = {"fused", "foreach", "differentiable"}
    if inspect.isclass(kind) and "fused" in inspect.signature(kind).parameters:
        arguments |= {} if ways & arguments.keys() else {"fused": True}
    return named(torch.optim, torch.optim.Optimizer, "optimizer", c.name, parameters, arguments)


def named(room: Any, base: type, section: str, name: str, first: Any, arguments: Any) -> Any:
    """An object of one of torch's classes, by the name in a table of the configuration."""
    known = [
        n
        for n, v in vars(room).items()
        if inspect.isclass(v) and issubclass(v, base) and v is not base and not n.startswith("_")
    ]
    if name not in known:
        raise UsageError(f"{section}.name = {name!r} is not in torch{suggest(name, known)}")
    kind = getattr(room, name)
    if base is torch.optim.Optimizer:
        kind = eager(kind)
    return free.construct(section, name, kind, arguments, first)
