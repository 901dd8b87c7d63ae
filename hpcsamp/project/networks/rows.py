"""A network for vectors of values or short series."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn


class Network(nn.Module):
    """Hidden layers; use any module that maps (batch, *in_shape) to (batch, outputs)."""

    def __init__(self, in_shape: Sequence[int], outputs: int, hidden: Sequence[int]) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Flatten()]
        width = math.prod(in_shape)
        for units in hidden:
            layers += [nn.Linear(width, units), nn.ReLU()]
            width = units
        self.layers = nn.Sequential(*layers, nn.Linear(width, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs of a batch."""
        y: Tensor = self.layers(x)
        return y
