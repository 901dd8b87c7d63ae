"""A network for several inputs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn


class Network(nn.Module):
    """A layer for each input, whose results are added. It takes the inputs by position, in the
    order of the dataset; if its arguments are named like the inputs, it receives them by name.
    """

    def __init__(
        self, in_shape: Mapping[str, Sequence[int]], outputs: int, hidden: int = 64
    ) -> None:
        super().__init__()
        sizes = [math.prod(shape) for shape in in_shape.values()]
        self.first = nn.ModuleList(nn.Linear(size, hidden) for size in sizes)
        self.last = nn.Linear(hidden, outputs)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return the outputs of a batch."""
        hidden = sum(
            layer(x.flatten(1).to(self.last.weight))  # ids and flags as numbers: embed ids instead
            for layer, x in zip(self.first, inputs, strict=True)
        )
        y: Tensor = self.last(torch.relu(hidden))
        return y
