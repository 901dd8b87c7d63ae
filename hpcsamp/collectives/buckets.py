"""Exchange the gradient of late layers while the backward pass of earlier layers continues.

The flat gradient is cut into buckets of whole parameters, the last ones first, because a backward
pass begins with the last layers. A bucket is sent when all of its parameters have their gradient
and the buckets before it were sent: ranks send the same buckets in the same order, no matter in
which order and when their own layers finish.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

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
    if method.draws_weights and type(method.placement) is Replicated:
        why = (
            f"{name} sums the gradients of its samples in flat tensors, which are complete only "
            f"when the backward pass has ended"
        )
    elif type(method.placement) is not Replicated:
        why = f"the ranks of a sample group hold different weights of {name}"
    elif type(updates.placement) is not Replicated:
        why = "with optimizer.sharded each rank receives the gradient of its own part"
    return UsageError(f"parallel.buckets = {buckets}: {why}; set it to 1") if why else None


class Buckets:
    """Sums of contiguous parts of a flat gradient over the ranks that hold the same weights.

    Parameters
    ----------
    gradient
        The gradient of this rank, and afterwards that of all ranks.
    collectives
        The transport.
    count
        Largest number of buckets, of nearly equal sizes; never more than there are parameters.
    """

    def __init__(self, gradient: FlatGradient, collectives: Collectives, count: int) -> None:
        self._gradient, self._collectives = gradient, collectives
        self._stretches, members = _cut(gradient, count)
        self._of = {id(p): place for place, own in enumerate(members) for p in own}
        self._sizes = [len(own) for own in members]
        self._renew()

    def _renew(self) -> None:
        self._left = list(self._sizes)  # parameters of each bucket without a gradient
        self._waits: list[Callable[[], None]] = []
        self._finite: list[Tensor] = []

    def wrote(self, p: nn.Parameter) -> None:
        """Record that the gradient of a parameter is complete, and send buckets that are complete.

        Raises
        ------
        UsageError
            If the gradient was written to after its bucket was sent.
        """
        place = self._of[id(p)]
        if place < len(self._waits):
            raise UsageError(
                "a gradient was added to twice in one backward pass, after its exchange had "
                "begun: set parallel.buckets = 1"
            )
        if self._gradient.is_view(p):  # otherwise it is copied at the end
            self._left[place] -= 1
        while len(self._waits) < len(self._left) and self._left[len(self._waits)] == 0:
            self._send()

    def send_rest(self) -> bool:
        """Send the remaining buckets, wait for all, and return whether this rank's were finite.

        The gradient must have been collected. It is then that of all ranks.
        """
        while len(self._waits) < len(self._stretches):
            self._send()
        for wait in self._waits:
            wait()
        finite = bool(torch.stack(self._finite).all())
        self._collectives.average_(self._gradient.flat)
        self._renew()
        return finite

    def _send(self) -> None:
        own = self._gradient.flat[self._stretches[len(self._waits)]]
        self._finite.append(own.isfinite().all())
        self._waits.append(self._collectives.begin_sum_gradient(own, "replicas"))


def _cut(gradient: FlatGradient, count: int) -> tuple[list[slice], list[Sequence[nn.Parameter]]]:
    """Return the buckets of the flat gradient and their parameters, the last ones first."""
    parameters, starts = gradient.parameters, [place.start for place in gradient.places]
    stretches, members = list[slice](), list[Sequence[nn.Parameter]]()
    stop, last = len(gradient.flat), len(parameters)
    for first in reversed(range(len(parameters))):
        left, size = count - len(stretches), stop - starts[first]
        following = starts[first] - starts[first - 1] if first else 0
        if first == 0 or (left > 1 and size + following / 2 >= stop / left):
            stretches.append(slice(starts[first], stop))
            members.append(parameters[first:last])
            stop, last = starts[first], first
    return stretches, members
