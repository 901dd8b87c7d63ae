"""The pass of a module that is under way, as the functions see it that calls are routed to."""

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
from hpcsamp.streams.places import place_keys
from hpcsamp.weights.carry import Carry
from hpcsamp.weights.place import Place
from hpcsamp.weights.put import Put
from hpcsamp.weights.routing import slabs
from hpcsamp.weights.routing.forms import Form


class Numbers(Protocol):
    """What is drawn: ``(..., count)`` numbers from ``(...)`` keys of streams; hashable."""

    def __call__(self, keys: Tensor, count: int) -> Tensor:
        """Draw."""


class Draws(Protocol):
    """What answers calls that draw: a plan, or the probe that makes one."""

    def draw(
        self, now: Now, name: str, shape: Sequence[int], numbers: Numbers, kept: bool, shared: bool
    ) -> Any:
        """See :meth:`Now.draw`."""

    @property
    def packs(self) -> bool:
        """Whether layers may be given packed sequences."""

    def mask(self) -> None:
        """Note that a layer masks something, at whatever rate."""

    def normalises(self, at: int, shape: Sequence[int]) -> bool | None:
        """See :meth:`Now.normalises`."""


Route = Callable[..., Any]
"""Called like the function whose calls it takes, with :class:`Now` first.

It returns ``NotImplemented`` for a call that may go where it was going.
"""


@dataclass
class Now:
    """A pass.

    Attributes
    ----------
    place
        Which pass it is; of the ``k`` samples in it alone.
    form
        Where the samples are.
    items
        ``B``.
    device
        Of the inputs.
    draws
        What is known of the draws of such a pass (:mod:`.plan`).
    calls
        How many calls have drawn so far.
    met
        Whether a call was routed that has to be in every form of pass.
    put, carry
        The module, and the state that the pass begins with and leaves; None where there is none.
    normalising, normalised
        How many calls of batch normalisation there were so far, and how many were over items.
    packed
        The packed sequence that a layer was given last.
    again
        Makes a block in which calls are routed as in the module: within a route they are not.
    """

    place: Place
    form: Form
    items: int
    device: torch.device
    draws: Draws
    calls: int = 0
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
        """What a call draws, in the form of the pass.

        Parameters
        ----------
        name
            Of the function, for messages.
        shape
            Of what it draws, as the module sees it.
        numbers
            What it draws.
        kept
            Whether nobody will write to what is returned, so that it may be drawn once for several
            passes.
        shared
            Whether all items and positions have the same numbers: one for each place in the last
            axis.
        """
        drawn = self.draws.draw(self, name, slabs.whole(shape), numbers, kept, shared)
        return slabs.cut(drawn)

    def normalises(self, shape: Sequence[int]) -> bool | None:
        """Whether the next call of batch normalisation is over items, with an input of this shape.

        None while that is being found out.
        """
        at, self.normalising = self.normalising, self.normalising + 1
        return self.draws.normalises(at, shape)

    def call_keys(self, call: int, steps: Sequence[int] | None = None) -> Tensor:
        """``(k,)`` keys of the streams of a call, or ``(steps, k)`` of those of several steps."""
        if steps is not None:
            return branches(sample_keys(self.place, steps, self.device), _one(call, self.device))[
                ..., 0
            ]
        if self._keys is None:
            self._keys = sample_keys(self.place, [self.place.step], self.device)[0]
        return branches(self._keys, _one(call, self.device))[..., 0]

    def item_keys(self, call: int) -> Tensor:
        """``(k, B)`` keys of the streams of the items in a call."""
        index = self.place.index
        if index is None:
            index = torch.arange(self.items, device=self.device)
        return branches(self.call_keys(call), index.to(self.device))


def sample_keys(place: Place, steps: Sequence[int], device: torch.device) -> Tensor:
    """``(steps, k)`` keys of the samples of a place at some steps."""
    purpose = Purpose.PREDICT_MODULE if place.prediction else Purpose.MODULE
    keys = place_keys([name_of(place.seed, purpose, step) for step in steps], device)
    return branches(keys, torch.tensor(list(place.samples), dtype=torch.int64, device=device))


def _one(number: int, device: torch.device) -> Tensor:
    return torch.tensor([number], dtype=torch.int64, device=device)
