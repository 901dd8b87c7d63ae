"""The current pass of a module, which routed functions receive as their first argument."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from hpcsamp.streams import Purpose
from hpcsamp.streams.branches import branches
from hpcsamp.streams.noise import name_of
from hpcsamp.streams.places import numbers_of, place_keys
from hpcsamp.weights.carry import Carry
from hpcsamp.weights.place import Place
from hpcsamp.weights.put import Put
from hpcsamp.weights.routing import slabs
from hpcsamp.weights.routing.forms import Form


class Numbers(Protocol):
    """A hashable distribution: draws ``(..., count)`` random numbers from ``(...)`` stream keys."""

    def __call__(self, keys: Tensor, count: int) -> Tensor:
        """Draw ``count`` random numbers from each stream."""


class Draws(Protocol):
    """Source of random numbers for calls that draw: a plan, or a trial pass that makes one."""

    def draw(
        self, now: Now, name: str, shape: Sequence[int], numbers: Numbers, kept: bool, shared: bool
    ) -> Any:
        """See :meth:`Now.draw`."""

    @property
    def packs(self) -> bool:
        """Whether layers may receive packed sequences."""

    def mask(self) -> None:
        """Record that a layer applies a mask, whatever its rate."""

    def normalises(self, at: int, shape: Sequence[int]) -> bool | None:
        """See :meth:`Now.normalises`."""


Route = Callable[..., Any]
"""Called like the function whose calls it replaces, with :class:`Now` first.

It returns ``NotImplemented`` for a call that should not be routed.
"""


@dataclass
class Now:
    """State of the current pass.

    Attributes
    ----------
    place
        Place of the pass, with only the ``k`` samples in it.
    form
        Position of the samples in its tensors: looped, vmapped or folded.
    items
        ``B``.
    device
        Device of the inputs.
    draws
        Source of the random numbers that the pass draws (:mod:`.draw_plan`).
    calls
        Number of calls that have drawn so far.
    masked
        Number of calls that have applied fixed masks so far.
    met
        Whether there was a call that must be routed however samples are evaluated (in a loop, by
        vmap, or folded into the batch).
    put, carry
        The module, and the state from which the pass starts and which it leaves; None for no state.
    normalising, normalised
        Number of calls of batch normalisation so far, and of those over items.
    packed
        The packed sequence that was last passed to a layer.
    again
        Returns a context that routes calls made within a route, which are otherwise not routed.
    """

    place: Place
    form: Form
    items: int
    device: torch.device
    draws: Draws
    calls: int = 0
    masked: int = 0
    met: bool = False
    put: Put | None = None
    carry: Carry | None = None
    normalising: int = 0
    normalised: int = 0
    packed: PackedSequence | None = None
    again: Callable[[], AbstractContextManager[Any]] = nullcontext
    _keys: Tensor | None = field(default=None, repr=False)

    def draw(
        self,
        name: str,
        shape: Sequence[int],
        numbers: Numbers,
        *,
        kept: bool = False,
        shared: bool = False,
    ) -> Any:
        """Return the random numbers of a call, with samples where the pass has them.

        Parameters
        ----------
        name
            Name of the function, for messages.
        shape
            Shape of the draw, as the module sees it.
        numbers
            Distribution of the draw.
        kept
            Whether the caller never writes to the result, so that it may be drawn once for several
            passes.
        shared
            Whether all items and positions share the same random numbers: one for each entry of the
            last axis.
        """
        drawn = self.draws.draw(self, name, slabs.whole(shape), numbers, kept, shared)
        return slabs.cut(drawn)

    def normalises(self, shape: Sequence[int]) -> bool | None:
        """Whether the next call of batch normalisation, with this input shape, is over items.

        None in a probe, which determines this.
        """
        at, self.normalising = self.normalising, self.normalising + 1
        return self.draws.normalises(at, shape)

    def call_keys(self, call: int, steps: Sequence[int | Tensor] | None = None) -> Tensor:
        """Return ``(k,)`` stream keys of a call, or ``(steps, k)`` for several steps."""
        if steps is not None:
            return branches(sample_keys(self.place, steps, self.device), _one(call, self.device))[
                ..., 0
            ]
        if self._keys is None:
            self._keys = sample_keys(self.place, [self.place.step], self.device)[0]
        return branches(self._keys, _one(call, self.device))[..., 0]

    def item_keys(self, call: int) -> Tensor:
        """Return ``(k, B)`` stream keys of the items in a call."""
        index = self.place.index
        if index is None:
            index = torch.arange(self.items, device=self.device)
        return branches(self.call_keys(call), index.to(self.device))


def sample_keys(place: Place, steps: Sequence[int | Tensor], device: torch.device) -> Tensor:
    """Return ``(steps, k)`` keys of the samples of a place at some steps."""
    purpose = Purpose.PREDICT_MODULE if place.prediction else Purpose.MODULE
    names = [name_of(place.seed, purpose, step) for step in steps]
    on_device = [name for name in names if isinstance(name, Tensor)]
    keys = torch.stack(on_device) if on_device else place_keys(names, device)  # type: ignore[arg-type]
    return branches(keys, numbers_of(place.samples, device))


def _one(number: int, device: torch.device) -> Tensor:
    return torch.full((1,), number, dtype=torch.int64, device=device)
