"""Plan the draws of a module in a pass, by probing it with two and with three items.

The axis of the items in a draw is not known beforehand. It follows from the shapes of the same call
for two and for three items: ``(B, T, d)``, ``(T, B, d)``, ``(B * heads, T, T)``, or no axis of
items; in that case all items share the draw.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from hpcsamp.errors import UsageError
from hpcsamp.weights.layers import ModuleLayer
from hpcsamp.weights.routing.batches import Normalised
from hpcsamp.weights.routing.now import Now, Numbers

#: Largest amount of numbers that are drawn ahead and kept, because a small network's steps are
#: short.
AHEAD, KEPT = 1 << 18, 1 << 22
#: Largest number of steps that are drawn at once.
STEPS = 64


class OtherCallsError(Exception):
    """Error raised if a pass draws differently from its plan."""


@dataclass(frozen=True)
class Call:
    """A call that draws random numbers.

    Attributes
    ----------
    name
        Name of the function.
    axis
        Axis of the items; None for a draw without items.
    shape
        Shape of the draw for one item: the axis of the items has the rows of one item.
    """

    name: str
    axis: int | None
    shape: tuple[int, ...]

    def folds(self, shape: Sequence[int], now: Now) -> bool:
        """Whether the samples are folded into the items of a call's shape.

        Raises
        ------
        OtherCallsError
            If a call of this plan cannot have the shape.
        """
        if self.axis is None:
            if tuple(shape) == self.shape:
                return False
        else:
            a = self.axis
            for folded in {1, now.form.folded}:
                rows = self.shape[a] * now.items * folded
                if tuple(shape) == (*self.shape[:a], rows, *self.shape[a + 1 :]):
                    return folded > 1
        raise OtherCallsError(f"{self.name} of shape {tuple(shape)}")

    def spread(self, values: Tensor) -> Tensor:
        """Reshape a tensor ``(k, B, n)``, n per item, to ``(k, *shape)``."""
        assert self.axis is not None
        values = shaped(values, self.shape)
        return values.movedim(1, self.axis + 1).flatten(self.axis + 1, self.axis + 2)


@dataclass
class Plan:
    """The calls of a pass that draw random numbers, in their order.

    Attributes
    ----------
    calls
        The calls.
    needed
        Whether any call has to be routed.
    masking
        Names of the layers that apply masks.
    norms
        The calls of batch normalisation; None if all are treated as calls over items.
    packs
        Whether layers receive packed sequences.
    """

    calls: tuple[Call, ...]
    needed: bool
    masking: frozenset[str] = frozenset()
    norms: tuple[Normalised, ...] | None = None
    packs: bool = False
    _ahead: dict[Any, tuple[int, Tensor]] = field(default_factory=dict)
    _size: int = 0

    def draw(
        self, now: Now, name: str, shape: Sequence[int], numbers: Numbers, kept: bool, shared: bool
    ) -> Any:
        """See :meth:`Now.draw`."""
        at = now.calls
        if at >= len(self.calls) or self.calls[at].name != name:
            raise OtherCallsError(name)
        call, now.calls = self.calls[at], at + 1
        folded = call.folds(shape, now)
        if shared and call.axis != len(call.shape) - 1:
            return self._shared(now, at, call, folded, numbers, kept)
        if call.axis is None:
            return now.form.without_items(self._once(now, at, call.shape, numbers, kept))
        values = numbers(now.item_keys(at), math.prod(call.shape))
        return now.form.with_items(call.spread(values), call.axis, folded)

    def mask(self) -> None:
        """See :meth:`.Draws.mask`."""

    def normalises(self, at: int, shape: Sequence[int]) -> bool:
        """See :meth:`Now.normalises`."""
        if self.norms is None:
            return True
        if at >= len(self.norms) or not self.norms[at].fits(shape):
            raise OtherCallsError(f"batch_norm of shape {tuple(shape)}")
        return self.norms[at].over

    def _shared(
        self, now: Now, at: int, call: Call, folded: bool, numbers: Numbers, kept: bool
    ) -> Any:
        """Return a draw for each entry of the last axis, shared by all items and positions."""
        own = (*[1] * (len(call.shape) - 1), *call.shape[-1:])
        values = self._once(now, at, own, numbers, kept)
        if kept:  # callers do not read the shape of kept numbers
            return now.form.without_items(values)
        a, whole = call.axis, list(call.shape)
        if a is not None:
            whole[a] *= now.items
        values = values.expand(-1, *whole).clone()
        if a is None:
            return now.form.without_items(values)
        return now.form.with_items(values, a, folded)

    def _once(
        self, now: Now, at: int, shape: Sequence[int], numbers: Numbers, kept: bool
    ) -> Tensor:
        """Return draws ``(k, *shape)`` shared by all items; if kept, drawn ahead for more steps."""
        count, place = math.prod(shape), now.place
        size = count * len(place.samples)
        if not kept or size > AHEAD or isinstance(place.step, Tensor):
            return shaped(numbers(now.call_keys(at), count), shape)
        name = (at, numbers, tuple(place.samples), place.seed, place.prediction, count, now.device)
        first, ahead = self._ahead.get(name, (0, None))
        if ahead is None or not first <= place.step < first + len(ahead):
            ahead_of = STEPS if len(place.samples) > 1 and not place.prediction else 1
            steps = max(1, min(ahead_of, AHEAD // len(self.calls) // size))
            first = place.step
            keys = now.call_keys(at, range(first, first + steps))
            ahead = numbers(keys, count)
            self._size += ahead.numel()
            if self._size > KEPT:
                self._ahead.clear()
                self._size = ahead.numel()
            self._ahead[name] = first, ahead
        return shaped(ahead[place.step - first], shape)


@dataclass
class Probe:
    """Records the calls that draw random numbers in a trial pass, where all items share each draw.

    Attributes
    ----------
    layers
        Layers that are being evaluated, the innermost last.
    seen
        Function, shape and layer of each call, and whether all items share its random numbers in
        a way that cannot be divided by item (as in a permutation).
    masking
        Names of the layers that apply masks.
    norms
        Shape and layer of each call of batch normalisation.
    """

    layers: list[ModuleLayer]
    seen: list[tuple[str, tuple[int, ...], str, bool]] = field(default_factory=list)
    masking: set[str] = field(default_factory=set)
    norms: list[tuple[tuple[int, ...], str]] = field(default_factory=list)
    packs: bool = True

    def draw(
        self, now: Now, name: str, shape: Sequence[int], numbers: Numbers, kept: bool, shared: bool
    ) -> Any:
        """See :meth:`Now.draw`."""
        layer = str(self.layers[-1]) if self.layers else ""
        self.seen.append((name, tuple(shape), layer, getattr(numbers, "together", False)))
        at, now.calls = now.calls, now.calls + 1
        values = numbers(now.call_keys(at), math.prod(shape))
        return now.form.without_items(shaped(values, shape))

    def mask(self) -> None:
        """See :meth:`.Draws.mask`."""
        self.masking.add(self.layers[-1].name if self.layers else "")

    def normalises(self, at: int, shape: Sequence[int]) -> None:
        """See :meth:`Now.normalises`."""
        self.norms.append((tuple(shape), str(self.layers[-1]) if self.layers else ""))


def shaped(values: Tensor, shape: Sequence[int]) -> Tensor:
    """Reshape ``(..., n)`` to ``(..., *shape)``."""
    return values.reshape(*values.shape[:-1], *shape)


def compared(two: Probe, three: Probe) -> tuple[Call, ...]:
    """Return the calls of a pass, from probes with two and with three items.

    Raises
    ------
    UsageError
        If the draws of a layer have no defined relation to items; the message names the layer.
    """
    names = [[name for name, *_ in probe.seen] for probe in (two, three)]
    if names[0] != names[1]:
        raise UsageError(
            f"the module draws {len(names[0])} times for 2 items and {len(names[1])} times for 3 "
            f"({', '.join(names[1][:4])}); its draws must not depend on the number of items"
        )
    pairs = zip(two.seen, three.seen, strict=True)
    return tuple(_call(*a, b[1]) for a, b in pairs)


def _call(
    name: str, two: tuple[int, ...], layer: str, together: bool, three: tuple[int, ...]
) -> Call:
    if together and two != three:
        raise UsageError(
            f"{layer or 'the module'} draws by {name} over the items of a batch, so that an item's "
            f"outputs would depend on the other items; draw for each item, or once for all"
        )
    if two == three:
        return Call(name, None, two)
    differ = [axis for axis, (a, b) in enumerate(zip(two, three, strict=False)) if a != b]
    if len(two) == len(three) and len(differ) == 1:
        (axis,) = differ
        rows, left = divmod(two[axis], 2)
        if not left and three[axis] == 3 * rows:
            return Call(name, axis, (*two[:axis], rows, *two[axis + 1 :]))
    raise UsageError(
        f"{layer or 'the module'} draws by {name} numbers of shape {two} for 2 items and of shape "
        f"{three} for 3, in which no axis counts the items; draw for each item, or once for all"
    )
