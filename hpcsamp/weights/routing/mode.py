"""Intercept calls that a module makes and route them to functions that handle samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.nn.utils.rnn import PackedSequence
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from hpcsamp.weights import recomputation
from hpcsamp.weights.routing.now import Now, Route


class Routing(TorchFunctionMode):
    """Context in which calls of some functions are routed according to a table.

    Parameters
    ----------
    now
        The current pass, which routed functions receive.
    routes
        Routes by function. If a module takes one of them, its calls must be routed however samples
        are evaluated: in a loop, by vmap, or folded into the batch.
    others
        Further routes that only this way to evaluate samples needs.
    """

    def __init__(
        self, now: Now, routes: Mapping[Any, Route], others: Mapping[Any, Route] | None = None
    ) -> None:
        super().__init__()
        self._now, self._routes, self._others = now, routes, others or {}
        #: One for each time that this context is entered: it may be within itself.
        self._listening: list[RemovableHandle] = []
        now.again = lambda: self

    def __enter__(self) -> Routing:
        recomputation.begin(self._as_it_is)
        if self._now.draws.packs:
            self._listening.append(register_module_forward_pre_hook(self._note))
        mode: Routing = super().__enter__()
        return mode

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        if self._listening:
            self._listening.pop().remove()
        recomputation.end()

    def _note(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        """Keep packed sequences, because functions called by layers do not receive their rows."""
        for value in inputs:
            if isinstance(value, PackedSequence):
                self._now.packed = value

    def _as_it_is(self) -> Callable[[], Routing]:
        """Return a function that creates contexts which continue the draws from this state."""
        now = replace(self._now)
        return lambda: Routing(replace(now), self._routes, self._others)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        route = self._routes.get(func)
        if route is not None:
            found = route(self._now, *args, **kwargs)
            if found is not NotImplemented:
                self._now.met = True
                return found
        route = self._others.get(func)
        if route is not None:
            found = route(self._now, *args, **kwargs)
            if found is not NotImplemented:
                return found
        return func(*args, **kwargs)
