"""The items of a step, and how losses reduce over them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from hpcsamp.collectives import Collectives


@dataclass(frozen=True)
class Step:
    """The batch of a sample group in one step, as losses see it.

    Attributes
    ----------
    target
        ``(B, ...)``.
    weight
        ``(B,)`` weight per item, 0 for padding, or None.
    mask
        Weight per value, broadcastable to ``target``, or None.
    count
        What a sum over items is divided by to be a mean.
    items
        ``N``, the number of training items.
    collectives
        Exchange with the data group.
    """

    target: Tensor
    weight: Tensor | None
    mask: Tensor | None
    count: float
    items: int
    collectives: Collectives

    def mean(self, each: Tensor) -> Tensor:
        """Mean over the items, ``(B,)`` to a scalar or ``(s, B)`` to ``(s,)``."""
        return (each if self.weight is None else each * self.weight).sum(-1) / self.count

    def mean_over_data(self, own: Tensor) -> Tensor:
        """Mean over the data groups; the gradient is that of the own items.

        The ranks' gradients are averaged over data groups, so with ``a = mean_over_data(own)`` and
        a loss ``f(a)`` on every rank, that average is the gradient of ``f``.
        """
        return own + (self.collectives.mean_over_data(own) - own).detach()
