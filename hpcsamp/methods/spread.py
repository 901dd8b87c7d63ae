"""Division of the values of an item over model ranks, if a network is split over them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from hpcsamp.grid.parts import Part


@dataclass(frozen=True)
class Spread:
    """The part of an item that this model rank holds.

    Attributes
    ----------
    inputs
        The part of an item's input that this rank's part of the network reads.
    outputs
        The part of an item's output that each model rank returns, in the order of the ranks.
    values
        The values of an item's target that correspond to this rank's outputs.
    """

    inputs: Part
    outputs: tuple[Part, ...]
    values: Part

    def of_inputs(self, x: Tensor) -> Tensor:
        """Return this rank's part ``(B, *local)`` of whole inputs ``(B, ...)``."""
        return self.inputs.cut(x).contiguous()

    def of_targets(self, y: Tensor) -> Tensor:
        """Return this rank's part ``(B, *local)`` of whole targets ``(B, ...)``."""
        return self.values.cut(y).contiguous()

    def of_weights(self, weights: Any) -> Any:
        """Return this rank's part of loss weights that broadcast to an item, or None."""
        if weights is None:
            return None
        own = self.values
        shape = (*weights.shape[: max(0, weights.dim() - len(own.shape))], *own.shape)
        return own.cut(weights.expand(shape))
