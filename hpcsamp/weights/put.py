"""Replace a module's parameters and buffers by other values within a context.

``torch.func.functional_call`` does the same, but looks up every name at every call. Here each name
is looked up once, so that a pass through a small network only sets a few dictionary entries.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any

from torch import nn

from hpcsamp.errors import UsageError
from hpcsamp.weights import recomputation
from hpcsamp.weights.pieces import parts_in

if TYPE_CHECKING:
    from hpcsamp.weights.state import State
    from hpcsamp.weights.strategies.compiled import Compiled

Place = tuple[dict[str, Any], str]
"""A module's own dictionary of parameters or buffers, and the key in it."""


class Put:
    """Puts values in place of a module's parameters and buffers, by their names.

        put = Put(module)
        with put({"0.weight": w, "0.bias": b}):
            y = module(x)

    A parameter with several names is replaced under all of them. The previous values are restored
    at the end of the context, also after an exception.

    Parameters
    ----------
    module
        Any module. Parameters and buffers that are registered later are not replaced.

    Attributes
    ----------
    state
        State of the method that evaluates the module (:mod:`hpcsamp.weights.state`).
    known
        Verdicts on strategies for this module, by sizes.
    compiled
        The module as compiled functions, see :func:`hpcsamp.methods.compiling.compile_passes`.
    pairs
        Names of complex parameters and buffers.
    parted
        Whether the module is a part of a network that is split over several ranks. All of them must
        evaluate samples in the same way, which a coincidence of sizes on one rank could prevent.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.known: dict[Any, Any] = {}
        self.state: State | None = None
        self.compiled: Compiled | None = None
        self._parts = list(module.modules())
        self._places: dict[str, tuple[Place, ...]] = {}
        shared: dict[int, list[Place]] = {}
        names: dict[str, int] = {}
        for path, part in module.named_modules(remove_duplicate=False):
            for key, value in itertools.chain(part._parameters.items(), part._buffers.items()):
                if value is None:
                    continue
                held = part._parameters if key in part._parameters else part._buffers
                names[f"{path}.{key}" if path else key] = id(value)
                places = shared.setdefault(id(value), [])
                if not any(d is held and k == key for d, k in places):
                    places.append((held, key))
        for name, which in names.items():
            self._places[name] = tuple(shared[which])
        self.parted = not all(p.is_whole for p in parts_in(module).values())
        self._search: list[tuple[str, Place]] = []
        self._last = 0
        self.pairs = frozenset(name for name in names if self.held(name).is_complex())

    def __call__(self, values: Mapping[str, Any]) -> _Block:
        """Return a context in which the module has these values.

        Parameters
        ----------
        values
            Tensors, or objects in place of tensors, by the name of a parameter or buffer.

        Raises
        ------
        UsageError
            On entering the context, if the module has no parameter or buffer of a name.
        """
        return _Block(self, values)

    def also(self, name: str, held: dict[str, Any], key: str) -> None:
        """Add a place that is not a parameter or buffer: an entry of a dictionary.

        Parameters
        ----------
        name
            Name of the value.
        held, key
            The dictionary and its key from which the module, or a hook of it, reads the value.
        """
        self._places[name] = ((held, key),)
        self._search.clear()

    def held(self, name: str) -> Any:
        """Return the current value of a name."""
        held, key = self.places(name)[0]
        return held[key]

    def name_of(self, value: object) -> str | None:
        """Return the name of a current value of the module; None if the module does not have it.

        If several names share the value, the first one is returned. Layers look up values in the
        order of their names, so a search starts where the last one ended.
        """
        if not self._search:
            first: dict[tuple[int, str], tuple[str, Place]] = {}
            for name, places in self._places.items():
                for held, key in places:
                    first.setdefault((id(held), key), (name, (held, key)))
            self._search = list(first.values())
        count = len(self._search)
        for at in itertools.chain(range(self._last, count), range(self._last)):
            name, (held, key) = self._search[at]
            if held[key] is value:
                self._last = at
                return name
        return None

    def modes(self) -> tuple[bool, ...]:
        """Whether each submodule is in training mode."""
        return tuple([part.training for part in self._parts])

    def places(self, name: str) -> tuple[Place, ...]:
        """Return the places that hold the values of a name.

        Raises
        ------
        UsageError
            If the module has no parameter or buffer of this name.
        """
        try:
            return self._places[name]
        except KeyError:
            raise UsageError(
                f"{type(self.module).__name__} has no parameter or buffer {name!r}"
            ) from None


class _Block:
    """Context of a replacement."""

    __slots__ = ("_before", "_put", "_values")

    def __init__(self, put: Put, values: Mapping[str, Any]) -> None:
        self._put, self._values = put, values
        self._before: list[tuple[dict[str, Any], str, Any]] = []

    def __enter__(self) -> None:
        before, places = self._before, self._put.places
        try:
            for name, value in self._values.items():
                for held, key in places(name):
                    before.append((held, key, held[key]))
                    held[key] = value
        except BaseException:
            self._restore()
            raise
        recomputation.begin(self._as_it_is)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        recomputation.end()
        self._restore()

    def _as_it_is(self) -> Callable[[], _Block]:
        return partial(_Block, self._put, self._values)

    def _restore(self) -> None:
        for held, key, value in reversed(self._before):
            held[key] = value
        self._before.clear()
