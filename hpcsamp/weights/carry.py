"""Load the state of a module before a pass, and collect the state that the pass leaves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import is_batchedtensor

from hpcsamp.weights import recomputation
from hpcsamp.weights.folding import Sampled
from hpcsamp.weights.place import Place
from hpcsamp.weights.put import Put
from hpcsamp.weights.state import State
from hpcsamp.weights.strategies.chunk import NotPossibleError


def carried(
    put: Put, place: Place, sampled: Mapping[str, Tensor], rows: Sequence[int], items: int
) -> Carry | None:
    """Return the :class:`Carry` of a pass; None for a module that keeps no state."""
    return None if put.state is None else Carry(put, put.state, place, sampled, rows, items)


class Carry:
    """Context of a pass over some samples of a chunk, whose values are in the module.

    Within the context the module has copies of the state that it changes, so that tensors that
    autograd has saved stay unchanged; at its end the module has the state of the step again.

    Parameters
    ----------
    put, state
        The module, and the state of the method.
    place
        The place of the samples of the pass.
    sampled, rows
        ``(k, *shape)`` values by name, and the rows of ``k`` that belong to the pass.
    items
        Number of items of the pass.

    Raises
    ------
    NotPossibleError
        If several samples would have to change the same values; they are then evaluated one at a
        time.
    """

    def __init__(
        self,
        put: Put,
        state: State,
        place: Place,
        sampled: Mapping[str, Tensor],
        rows: Sequence[int],
        items: int,
    ) -> None:
        self.state = state
        self.prediction, self.trial = place.prediction, place.trial
        self._put, self._sampled, self._rows, self._items = put, sampled, list(rows), items
        self.samples = place.samples
        self._left: dict[str, Tensor] = {}
        self._begun: dict[str, tuple[Any, Any]] = {}
        self._again = False
        self._start: dict[str, Tensor] = {}

    # State that routed calls change --------------------------------------------------------------

    def now(self, name: str) -> Tensor:
        """Return a state, ``(k, *shape)`` or ``(1, *shape)``, as the pass has left it so far."""
        if name in self._left:
            return self._left[name]
        own = self._sampled.get(name)
        found: Tensor = self._put.held(name)[None] if own is None else own[self._rows]
        return found.detach()

    def leave(self, name: str, value: Tensor) -> None:
        """Set a state at the end of the pass, ``(k, *shape)`` or ``(1, *shape)``."""
        self._left[name] = value.detach()

    # State that the module changes itself --------------------------------------------------------

    def _as_it_is(self) -> Callable[[], Carry]:
        """Return a context for recomputation from the current state, which discards changes."""
        start = {name: self._put.held(name).detach().clone() for name in self._begun}

        def again() -> Carry:
            made = copy(self)
            made._left, made._begun, made._again = dict(self._left), {}, True
            made._start = start
            return made

        return again

    def __enter__(self) -> Carry:
        put = self._put
        for name in [] if self.prediction else sorted(self.state.changing):
            before = put.held(name)
            if len(self._rows) > 1:
                self._check_together(name, before)
            self._begun[name] = (before, self._start.get(name, before).detach().clone())
        for name, (_, copied) in self._begun.items():
            for held, key in put.places(name):
                held[key] = copied
        recomputation.begin(self._as_it_is)
        return self

    def _check_together(self, name: str, value: Any) -> None:
        if (
            type(value) is Sampled
            or is_batchedtensor(value)
            or value.is_floating_point()
            or value.is_complex()
        ):
            raise NotPossibleError(f"the forward pass changes {name}, separately for each sample")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        recomputation.end()
        put = self._put
        for name, (before, copied) in self._begun.items():
            found = [held[key] for held, key in put.places(name)]
            for held, key in put.places(name):
                held[key] = before
            value = next((f for f in found if f is not copied), copied)
            if type(value) is Sampled or is_batchedtensor(value):
                raise NotPossibleError(
                    f"the forward pass changes {name}, separately for each sample"
                )
            if name not in self._left:
                self._left[name] = value.detach()[None]
        self._begun.clear()
        if error is not None or self.prediction or self._again:
            return
        if self.trial:
            self.state.seen = dict(self._left)
        elif torch.is_grad_enabled() and self._left:
            self.state.keep(self.samples, self._left, self._items)
