"""Exchange the gradient of late layers while the backward pass of earlier layers continues.

The flat gradient is cut into buckets of whole units, such as parameters, the last ones first,
because a backward pass begins with the last layers. A bucket is sent when all of its units are
complete and the buckets before it were sent: ranks send the same buckets in the same order, no
matter in which order and when their own layers finish.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from hpcsamp.collectives.base import Collectives
from hpcsamp.collectives.flat import FlatGradient
from hpcsamp.collectives.updates import Updates
from hpcsamp.errors import UsageError
from hpcsamp.grid.placement import Replicated
from hpcsamp.methods.base import Method


def check_buckets(buckets: Any, method: Method, updates: Updates) -> UsageError | None:
    """Return an error if the gradient of a method cannot be exchanged in several buckets."""
    if not isinstance(buckets, int) or isinstance(buckets, bool) or buckets < 1:
        return UsageError(f"parallel.buckets = {buckets!r} must be a number of at least 1")
    name, why = type(method).__name__, ""
    if buckets == 1:
        return None
    if method.draws_weights and type(method.placement) is Replicated and not method.early():
        why = (
            f"{name} sums the gradients of its samples in flat tensors, which are complete only "
            f"when the backward pass has ended"
        )
    elif type(method.placement) is not Replicated:
        why = f"the ranks of a sample group hold different weights of {name}"
    elif type(updates.placement) is not Replicated:
        why = "with optimizer.sharded each rank receives the gradient of its own part"
    return UsageError(f"parallel.buckets = {buckets}: {why}; set it to 1") if why else None


def units_of(gradient: FlatGradient) -> list[list[slice]]:
    """Return the slice of each parameter in the flat gradient, in order and without gaps."""
    starts = [place.start for place in gradient.places]
    return [[slice(a, b)] for a, b in pairwise([*starts, len(gradient.flat)])]


@dataclass(frozen=True)
class Bucket:
    """Units that are sent together.

    Attributes
    ----------
    units
        Indices of the units.
    stretches
        Slices of the flat gradient, as few as possible.
    """

    units: range
    stretches: list[slice]


def cut(units: Sequence[Sequence[slice]], count: int) -> list[Bucket]:
    """Cut units, in the order of the layers, into buckets in the order in which they are sent.

    Parameters
    ----------
    units
        The slices of the flat gradient that become complete together.
    count
        Largest number of buckets, of nearly equal sizes; never more than there are units.
    """
    sizes = [sum(part.stop - part.start for part in unit) for unit in units]
    found, last, size, rest = list[Bucket](), len(units), 0, sum(sizes)
    for first in reversed(range(len(units))):
        size += sizes[first]
        left, following = count - len(found), sizes[first - 1] if first else 0
        if first == 0 or (left > 1 and size + following / 2 >= rest / left):
            found.append(Bucket(range(first, last), _joined(units[first:last])))
            last, size, rest = first, 0, rest - size
    return found


def _joined(units: Sequence[Sequence[slice]]) -> list[slice]:
    """Return the slices of some units, with neighbours joined."""
    found: list[slice] = []
    for part in sorted((p for unit in units for p in unit), key=lambda p: p.start):
        if found and found[-1].stop == part.start:
            found[-1] = slice(found[-1].start, part.stop)
        else:
            found.append(part)
    return found


class Buckets:
    """Sums of the buckets of one gradient over the ranks that hold the same weights.

    Parameters
    ----------
    flat
        The gradient of this rank, and afterwards the sum over the ranks.
    plan
        The buckets in the order in which they are sent.
    collectives
        The transport.
    """

    def __init__(self, flat: Tensor, plan: Sequence[Bucket], collectives: Collectives) -> None:
        self._flat, self._plan, self._collectives = flat, plan, collectives
        self._of = {unit: place for place, bucket in enumerate(plan) for unit in bucket.units}
        self._left = [set(bucket.units) for bucket in plan]
        self._sent = 0
        self._waits: list[Callable[[], None]] = []
        self._finite: list[Tensor] = []

    def complete(self, unit: int) -> None:
        """Record that a unit is complete, and send buckets that are complete.

        Raises
        ------
        UsageError
            If its bucket was sent before.
        """
        place = self._of[unit]
        if place < self._sent:
            raise UsageError(
                "a gradient was added to twice in one backward pass, after its exchange had "
                "begun: set parallel.buckets = 1"
            )
        self._left[place].discard(unit)
        while self._sent < len(self._plan) and not self._left[self._sent]:
            self._send()

    def end(self) -> Tensor:
        """Send the remaining buckets, wait for all, and return whether this rank's were finite."""
        while self._sent < len(self._plan):
            self._send()
        for wait in self._waits:
            wait()
        return torch.stack(self._finite).all()

    def _send(self) -> None:
        for stretch in self._plan[self._sent].stretches:
            own = self._flat[stretch]
            self._finite.append(own.isfinite().all())
            self._waits.append(self._collectives.begin_sum_gradient(own, "replicas"))
        self._sent += 1
