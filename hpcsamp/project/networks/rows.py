"""A network for rows of numbers or short series."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn


class Network(nn.Module):
    """Two hidden layers. Any module will do that maps (batch, *in_shape) to (batch, outputs)."""

    def __init__(self, in_shape: Sequence[int], outputs: int, hidden: int = 64) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.Linear(math.prod(in_shape), hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Outputs of a batch."""
        y: Tensor = self.layers(x)
        return y
