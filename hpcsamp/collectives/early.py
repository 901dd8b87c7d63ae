"""Exchange a gradient under the last backward pass of a loss that computes it in its own call.

A method that draws weights sums the gradients of its samples in such a call. In the backward pass
of the last samples the sums become final layer by layer, and each bucket of them is sent then. The
call ends with the sum over the ranks, which ``loss.backward()`` only scales and adds to ``.grad``.
The gradient of the penalty must be known before: each part of it is added before it is sent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from hpcsamp.collectives.base import Collectives
from hpcsamp.collectives.buckets import Buckets, cut
from hpcsamp.collectives.flat import FlatGradient
from hpcsamp.methods.base import Method

Parts = Sequence[Sequence[tuple[str, slice]]]


class EarlyExchange:
    """Makes the early sums of each call of a loss.

    Parameters
    ----------
    gradient
        The flat gradient, whose order the sums have.
    collectives
        The transport.
    method
        A method with parts, see :meth:`hpcsamp.methods.base.Method.early`.
    count
        Largest number of buckets.
    deliver
        Called in a backward pass with the sums over the ranks and the factor of the loss.
    """

    def __init__(
        self,
        gradient: FlatGradient,
        collectives: Collectives,
        method: Method,
        count: int,
        deliver: Callable[[EarlySums, Tensor], None],
    ) -> None:
        self._gradient, self._collectives, self.deliver = gradient, collectives, deliver
        names = {id(p): name for name, p in method.named_parameters()}
        self._places = {
            names[id(p)]: place
            for p, place in zip(gradient.parameters, gradient.places, strict=True)
        }
        self._parts = [
            [(name, own) for name, own in part if name in self._places] for part in method.early()
        ]
        starts = {name: place.start for name, place in self._places.items()}
        self._plan = cut(
            [
                [slice(starts[name] + own.start, starts[name] + own.stop) for name, own in part]
                for part in self._parts
            ],
            count,
        )

    def begin(self, penalty: Tensor) -> EarlySums:
        """Return the sums of a call, given this rank's part of the penalty.

        The penalty's graph is freed.
        """
        found: Sequence[Tensor | None] = (None,) * len(self._places)
        if penalty.requires_grad:
            found = torch.autograd.grad(penalty, self._gradient.parameters, allow_unused=True)
        flat = torch.zeros_like(self._gradient.flat)
        buckets = Buckets(flat, self._plan, self._collectives)
        sums = {name: flat[place] for name, place in self._places.items()}
        return EarlySums(self, flat, sums, dict(zip(sums, found, strict=True)), buckets)

    def parts(self, part: int) -> Sequence[tuple[str, slice]]:
        """Return the names and slices of a part."""
        return self._parts[part]


class EarlySums:
    """The sums of one call of a loss; see :class:`hpcsamp.methods.accumulate.Outlet`.

    Attributes
    ----------
    flat
        The sums of this rank, and after :meth:`end` those of all ranks.
    sums
        The same by name of the parameter.
    finite
        Whether the sums of this rank were finite, a scalar; from :meth:`end` on.
    """

    def __init__(
        self,
        exchange: EarlyExchange,
        flat: Tensor,
        sums: Mapping[str, Tensor],
        penalty: Mapping[str, Tensor | None],
        buckets: Buckets,
    ) -> None:
        self.flat, self.sums = flat, sums
        self._exchange, self._penalty, self._buckets = exchange, penalty, buckets

    def complete(self, part: int) -> None:
        """Add the gradient of the penalty to a part, and send the buckets that are complete."""
        for name, own in self._exchange.parts(part):
            gradient = self._penalty[name]
            if gradient is not None:
                self.sums[name][own] += gradient[own]
        self._buckets.complete(part)

    def end(self) -> None:
        """Wait for the sums over the ranks. Collective."""
        self.finite: Tensor = self._buckets.end()
        self._penalty = {}

    def deliver(self, scale: Tensor) -> None:
        """Add the sums, multiplied by the factor of the loss, to ``.grad``; in a backward pass."""
        self._exchange.deliver(self, scale)
