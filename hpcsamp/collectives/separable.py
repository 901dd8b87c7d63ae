"""Observe whether an optimiser mixes what different ranks may update.

A rank updates the members that it holds, or its part of each parameter, so an optimiser whose step
mixes them (the orthogonalised step of Muon, the factored moments of Adafactor, a norm of all
weights) would give other results on another grid. Steps of a copy of the optimiser on a few
numbers are compared with those on parts of the same numbers, so no list of names is needed.
"""

from __future__ import annotations

import copy
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hpcsamp.errors import UsageError
from hpcsamp.grid.placement import rows_of
from hpcsamp.methods.base import Method

ROWS, COLUMNS, STEPS, RATE = 4, 6, 2, 0.01
Split = Callable[[Tensor], Sequence[Tensor]]


def mixes(optimizer: torch.optim.Optimizer, placement: Any, method: Method) -> UsageError | None:
    """Return an error if a step of an optimiser mixes what different ranks may update.

    None also if this cannot be observed, because the step draws random numbers or fails on other
    parameters; and for the optimisers of the method itself.
    """
    kind = type(optimizer).__name__
    if not placement.partial or kind in method.optimizers:
        return None
    rows = rows_of(placement) is not None
    try:
        with torch.random.fork_rng(devices=[]):
            whole, again = (_stepped(optimizer, lambda x: [x]) for _ in range(2))
            if not torch.equal(whole, again):
                return None
            parts = _stepped(optimizer, _members if rows else _elements)
    except Exception:  # an optimiser that cannot be copied, or that needs other parameters
        return None
    if torch.allclose(whole, parts, rtol=1e-9, atol=1e-12):
        return None
    what = "the members of an ensemble" if rows else "the elements of a parameter"
    return UsageError(
        f"{kind} mixes {what} in a step, so that results would depend on the ranks that hold them; "
        f"use an optimiser that moves each element by its own gradient, such as Adam or SGD"
    )


def _members(x: Tensor) -> Sequence[Tensor]:
    return x[:1], x[1:]


def _elements(x: Tensor) -> Sequence[Tensor]:
    return x.flatten().tensor_split([5])


def _stepped(optimizer: torch.optim.Optimizer, split: Split) -> Tensor:
    """Return numbers after some steps of a copy of the optimiser on parts of them."""
    probe = object.__new__(type(optimizer))
    others = {k: v for k, v in vars(optimizer).items() if k not in ("param_groups", "state")}
    # a schedule replaces the step of the instance, and hooks belong to the caller
    others = {k: v for k, v in others.items() if k not in ("step", "zero_grad")}
    hooks: dict[str, Any] = {k: OrderedDict() for k in others if k.endswith("_hooks")}
    vars(probe).update(copy.deepcopy({k: v for k, v in others.items() if k not in hooks}) | hooks)
    probe.state = defaultdict(dict)
    groups = []
    for group in optimizer.param_groups:
        device = group["params"][0].device
        numbers = torch.arange(1, ROWS * COLUMNS + 1, dtype=torch.float64, device=device)
        start = numbers.sin().view(ROWS, COLUMNS)
        own = {k: v for k, v in group.items() if k != "params"}
        own |= {"lr": RATE} if isinstance(own.get("lr"), int | float) else {}  # not that of a start
        groups.append(own | {"params": [nn.Parameter(part.clone()) for part in split(start)]})
    probe.param_groups = groups
    for step in range(STEPS):
        for group in groups:
            gradient = torch.cos(numbers.view(ROWS, COLUMNS) * (step + 1)).to(group["params"][0])
            for p, part in zip(group["params"], split(gradient), strict=True):
                p.grad = part.clone()
        type(optimizer).step(probe)
    return torch.cat([p.detach().flatten() for group in groups for p in group["params"]])
