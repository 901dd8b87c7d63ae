"""How items are spread over the ranks that hold a network in parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from hpcsamp.grid.parts import Part


@dataclass(frozen=True)
class Spread:
    """What a model rank has of an item.

    Attributes
    ----------
    inputs
        What this rank's part of the network takes of an item's input.
    outputs
        What each model rank's part gives of an item's output, in the order of the ranks.
    values
        Which values of an item's target this rank's outputs are of.
    """

    inputs: Part
    outputs: tuple[Part, ...]
    values: Part

    def of_inputs(self, x: Tensor) -> Tensor:
        """``(B, *local)`` of ``(B, ...)`` whole inputs."""
        return self.inputs.cut(x).contiguous()

    def of_targets(self, y: Tensor) -> Tensor:
        """``(B, *local)`` of ``(B, ...)`` whole targets."""
        return self.values.cut(y).contiguous()

    def of_weights(self, weights: Any) -> Any:
        """The same of weights of values that are broadcastable to an item; None stays None."""
        if weights is None:
            return None
        own = self.values
        shape = (*weights.shape[: max(0, weights.dim() - len(own.shape))], *own.shape)
        return own.cut(weights.expand(shape))
