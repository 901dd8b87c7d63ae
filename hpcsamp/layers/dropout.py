"""Dropout of activations that lie in parts on the model ranks."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from hpcsamp.grid.parts import Part, bounds
from hpcsamp.layers.axis import current
from hpcsamp.weights.routing.slabs import drawn_for


class Dropout(nn.Module):
    """Dropout of tokens x channels, of which a rank has its part of the mask.

    Draws are named by their place in an item, so each rank draws the mask of whole items (two bytes
    a number) and takes its part; nothing is exchanged.

    Parameters
    ----------
    rate
        Chance of a number to be dropped.
    tokens, channels
        Of an item.
    unit
        Neighbouring tokens that stay on one rank.
    """

    def __init__(self, rate: float, tokens: int, channels: int, unit: int = 1) -> None:
        super().__init__()
        axis = current()
        self.rate = rate
        own = (
            bounds(tokens, axis.space.size, unit)[axis.space.rank],
            bounds(channels, axis.channels.size)[axis.channels.rank],
        )
        self.part = Part((tokens, channels), own)

    def forward(self, x: Tensor) -> Tensor:
        """``(..., own tokens, own channels)`` to the same."""
        with drawn_for(self.part):
            return F.dropout(x, self.rate, self.training)
