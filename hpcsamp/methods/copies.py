"""Copy modules, so that each member of an ensemble has its own buffers."""

from __future__ import annotations

import copy
from collections.abc import Callable

from torch import nn


def apart(make: Callable[[int], nn.Module], members: range) -> list[nn.Module]:
    """Return one module per member, copying a module that several members share.

    A copy shares the memory of trained parameters, which the method replaces. A module that cannot
    be copied stays shared.
    """
    found: list[nn.Module] = []
    for member in members:
        module = make(member)
        found.append(_copied(module) if any(module is other for other in found) else module)
    return found


def _copied(module: nn.Module) -> nn.Module:
    memo = {
        id(p): nn.Parameter(p.detach())
        for p in module.parameters()
        if type(p) is nn.Parameter and p.requires_grad
    }
    try:
        return copy.deepcopy(module, memo)
    except (RuntimeError, TypeError, NotImplementedError):
        return module
