"""The items of a step, and how losses reduce over them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from hpcsamp.collectives import Collectives
from hpcsamp.methods import Method
from hpcsamp.weights import Inputs
from hpcsamp.weights.calling import Outputs


@dataclass(frozen=True)
class Step:
    """The batch of a sample group in one step, as losses see it.

    Attributes
    ----------
    target
        ``(B, ...)``; of several targets what stands for one (:class:`~hpcsamp.weights.Inputs`).
    weight
        ``(B,)`` weight per item, 0 for padding, or None.
    mask
        Weight per value, broadcastable to ``target``, by name if there are several; or None.
    count
        What a sum over items is divided by to be a mean.
    items
        ``N``, the number of training items.
    collectives
        Exchange with the data group.
    method
        Which evaluated the items, and knows the form of its outputs.
    """

    target: Any
    weight: Tensor | None
    mask: Any
    count: float
    items: int
    collectives: Collectives
    method: Method | None = None

    @property
    def targets(self) -> dict[str, Tensor]:
        """Several targets by name; empty if there is one."""
        return self.target.named if isinstance(self.target, Inputs) else {}

    @property
    def outputs(self) -> Outputs | None:
        """Where several outputs of the network lie in one tensor; None if there is one."""
        return None if self.method is None else self.method.outputs

    def part(self, name: str) -> Step:
        """The same items with one of several targets alone."""
        masks = self.mask.named if isinstance(self.mask, Inputs) else {}
        return replace(self, target=self.targets[name], mask=masks.get(name), method=None)

    def mean(self, each: Tensor) -> Tensor:
        """Mean over the items, ``(B,)`` to a scalar or ``(s, B)`` to ``(s,)``."""
        return (each if self.weight is None else each * self.weight).sum(-1) / self.count

    def mean_over_data(self, own: Tensor) -> Tensor:
        """Mean over the data groups; the gradient is that of the own items.

        The ranks' gradients are averaged over data groups, so with ``a = mean_over_data(own)`` and
        a loss ``f(a)`` on every rank, that average is the gradient of ``f``.
        """
        return own + (self.collectives.mean_over_data(own) - own).detach()
