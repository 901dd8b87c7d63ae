"""Optimisers whose use does not import torch's compiler.

``torch.optim`` hides some methods of its optimisers from the compiler, by wrappers that import the
whole of ``torch._dynamo`` (with sympy, some 850 modules) when they are first called: a third of the
CPU time in which a rank starts. Nothing here is compiled.

The wrappers are found by what :mod:`functools` leaves in them, ``__wrapped__``. Where a release of
torch has others, the methods stay what they are.
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
    """A subclass of an optimiser's class that does the same without wrappers for the compiler."""
    plain: dict[str, Any] = {
        name: method.__wrapped__
        for name, method in vars(Optimizer).items()
        if inspect.isfunction(method)
        and method.__globals__.get("__name__") == "torch._compile"
        and hasattr(method, "__wrapped__")
        and getattr(kind, name) is method
    }
    for wrapper in _chain(kind.step):
        if wrapper.__code__.co_name == "_use_grad":  # for the optimisers that are differentiable
            plain["step"] = _step(wrapper.__wrapped__)
    kept = {name: getattr(kind, name) for name in ("__module__", "__qualname__", "__doc__")}
    return type(kind.__name__, (kind,), kept | plain)


def _chain(method: Any) -> Iterator[Any]:
    """A method, if it is a wrapper what it wraps, and so on but for the innermost."""
    while inspect.isfunction(method) and hasattr(method, "__wrapped__"):
        yield method
        method = method.__wrapped__


def _step(update: Any) -> Any:
    def step(self: Optimizer, closure: Any = None) -> Any:
        with torch.set_grad_enabled(bool(self.defaults["differentiable"])):
            return update(self, closure)

    step.__doc__ = update.__doc__
    return step
