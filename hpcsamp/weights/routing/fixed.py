"""Fix the random draws of a network, so that one sample is a function of its inputs only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from hpcsamp.errors import UsageError
from hpcsamp.weights.calling import Caller
from hpcsamp.weights.place import Place
from hpcsamp.weights.routing import normalisation
from hpcsamp.weights.routing.draw_plan import OtherCallsError, Plan
from hpcsamp.weights.routing.forms import SingleSample
from hpcsamp.weights.routing.mode import Routing
from hpcsamp.weights.routing.now import Now, Numbers
from hpcsamp.weights.routing.passes import probed
from hpcsamp.weights.routing.table import ROUTES

#: Routes of functions that draw. Normalisation in prediction is torch's own.
DRAWING = {call: route for call, route in ROUTES.items() if call not in normalisation.ROUTES}


class Fixed(nn.Module):
    """A network with the draws of one sample as constants, which are the same for all items.

    Parameters
    ----------
    network
        The network, in evaluation mode.
    place
        Place of the sample.
    x
        Some items.
    within
        Returns a context in which the network draws as in that sample.

    Raises
    ------
    UsageError
        If the network draws for each item; the message names the function.
    """

    def __init__(
        self,
        network: nn.Module,
        place: Place,
        x: Any,
        within: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        super().__init__()
        self.network = network
        self._place, self._within = place, within
        call = Caller(network)
        with torch.no_grad(), within():
            noted = _Noted(probed(network, call, place, x))
            with Routing(Now(place, SingleSample(), len(x), x.device, noted), DRAWING):
                call(x)
        self._count, self._packs = len(noted.values), noted.packs
        for at, value in enumerate(noted.values):
            self.register_buffer(f"draw_{at}", value.clone())

    @property
    def takes_inputs_of(self) -> nn.Module:
        """See :class:`~hpcsamp.weights.calling.Caller`."""
        return self.network

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """Return the outputs of the network unchanged, before they are packed."""
        first = next(iter((*inputs, *named.values())))
        constants = [getattr(self, f"draw_{at}") for at in range(self._count)]
        draws = _Constants(constants, self._packs)
        now = Now(self._place, SingleSample(), first.shape[0], first.device, draws)
        with self._within(), Routing(now, DRAWING):
            return self.network(*inputs, **named)


@dataclass
class _Noted:
    """Draws random numbers according to a plan, and records those that all items share."""

    plan: Plan
    values: list[Tensor] = field(default_factory=list)

    @property
    def packs(self) -> bool:
        """See :attr:`.Draws.packs`."""
        return self.plan.packs

    def draw(
        self, now: Now, name: str, shape: Sequence[int], numbers: Numbers, kept: bool, shared: bool
    ) -> Any:
        """See :meth:`Now.draw`."""
        if now.calls >= len(self.plan.calls):
            raise OtherCallsError(name)
        call = self.plan.calls[now.calls]
        alike = shared and call.axis != len(call.shape) - 1
        if call.axis is not None and not alike:
            raise UsageError(f"{name} draws for each item")
        found = self.plan.draw(now, name, shape, numbers, kept or alike, shared)
        self.values.append(found)
        return found if kept else found.expand(tuple(shape)).clone()

    def mask(self) -> None:
        """See :meth:`.Draws.mask`."""

    def normalises(self, at: int, shape: Sequence[int]) -> bool:
        """See :meth:`Now.normalises`."""
        return False


@dataclass
class _Constants:
    """Returns the recorded draws, call by call."""

    values: Sequence[Tensor]
    packs: bool

    def draw(
        self, now: Now, name: str, shape: Sequence[int], numbers: Numbers, kept: bool, shared: bool
    ) -> Any:
        """See :meth:`Now.draw`."""
        if now.calls >= len(self.values):
            raise UsageError(f"the network draws more than {len(self.values)} times for this input")
        value, now.calls = self.values[now.calls], now.calls + 1
        return value if kept else value.expand(tuple(shape)).clone()

    def mask(self) -> None:
        """See :meth:`.Draws.mask`."""

    def normalises(self, at: int, shape: Sequence[int]) -> bool:
        """See :meth:`Now.normalises`."""
        return False
