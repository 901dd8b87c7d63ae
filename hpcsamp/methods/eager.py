"""Use torch's optimisers without importing torch's compiler.

``torch.optim`` hides some methods of its optimisers from the compiler by wrappers, which import all
of ``torch._dynamo`` (with sympy, some 850 modules) at their first call: a third of the CPU time
that a rank needs to start. hpcsamp compiles nothing unless ``training.compile`` is set.

The wrappers are recognised by ``__wrapped__``, which :mod:`functools` sets. If a release of torch
has other wrappers, the methods are unchanged.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
from torch.optim import Optimizer


@cache
def eager(kind: type[Any]) -> type[Any]:
    """Return a subclass of an optimiser's class with the same behaviour, without these wrappers."""
    plain: dict[str, Any] = {
        name: method.__wrapped__
        for name, method in vars(Optimizer).items()
        if inspect.isfunction(method)
        and method.__globals__.get("__name__") == "torch._compile"
        and hasattr(method, "__wrapped__")
        and getattr(kind, name) is method
    }
    for wrapper in _chain(kind.step):
        if wrapper.__code__.co_name == "_use_grad":  # for optimisers that are differentiable
            plain["step"] = _step(wrapper.__wrapped__)
    kept = {name: getattr(kind, name) for name in ("__module__", "__qualname__", "__doc__")}
    return type(kind.__name__, (kind,), kept | plain)


def _chain(method: Any) -> Iterator[Any]:
    """Iterate over a method and the functions that it wraps, except for the innermost one."""
    while inspect.isfunction(method) and hasattr(method, "__wrapped__"):
        yield method
        method = method.__wrapped__


def _step(update: Any) -> Any:
    def step(self: Optimizer, closure: Any = None) -> Any:
        with torch.set_grad_enabled(bool(self.defaults["differentiable"])):
            return update(self, closure)

    step.__doc__ = update.__doc__
    return step
