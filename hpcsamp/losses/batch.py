"""The items of a step, and the mean that losses take over them."""

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
    """The batch of a sample group in one step, as passed to losses.

    Attributes
    ----------
    target
        ``(B, ...)``; several targets are packed into one tensor (:class:`~hpcsamp.weights.Inputs`).
    weight
        ``(B,)`` weight of each item, 0 for padding, or None.
    mask
        Weight of each value, broadcastable to ``target``; a dictionary by name if there are several
        targets; or None.
    count
        Divisor that turns a sum over items into a mean.
    items
        ``N``, the number of training items.
    collectives
        Collectives that reach the data group.
    method
        The method that evaluated the items; it defines the layout of its outputs.
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
        """Targets by name if there are several; otherwise an empty dictionary."""
        return self.target.named if isinstance(self.target, Inputs) else {}

    @property
    def outputs(self) -> Outputs | None:
        """Layout of several outputs of the network in one tensor; None if there is one output."""
        return None if self.method is None else self.method.outputs

    def part(self, name: str) -> Step:
        """Return the same items with only the named target."""
        masks = self.mask.named if isinstance(self.mask, Inputs) else {}
        return replace(self, target=self.targets[name], mask=masks.get(name), method=None)

    def by_lead(self, leads: Tensor) -> Step:
        """Return a step whose items are the lead times of the items, with ``(B, k)`` weights."""
        each = leads if self.weight is None else leads * self.weight[:, None]
        mask = None if self.mask is None else self.mask.flatten(0, 1)
        return replace(self, target=self.target.flatten(0, 1), weight=each.flatten(), mask=mask)

    def mean(self, each: Tensor) -> Tensor:
        """Return the mean over items: a scalar from shape ``(B,)``, ``(s,)`` from ``(s, B)``."""
        return (each if self.weight is None else each * self.weight).sum(-1) / self.count

    def mean_over_data(self, own: Tensor) -> Tensor:
        """Return the mean over data groups, with the gradient of this rank's items only.

        The ranks' gradients are averaged over data groups, so for ``a = mean_over_data(own)`` and
        a loss ``f(a)`` on every rank, that average is the gradient of ``f``.
        """
        return own + (self.collectives.mean_over_data(own) - own).detach()
