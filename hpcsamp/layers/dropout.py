"""Dropout of activations that lie in parts on the model ranks."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from hpcsamp.grid.parts import Part
from hpcsamp.weights.routing.slabs import drawn_for


class Dropout(nn.Module):
    """Dropout of activations of which a rank has a part, such as some tokens x some channels.

    Draws are named by their place in an item, so each rank draws the mask of whole items (two bytes
    a number) and takes its part; nothing is exchanged.

    Parameters
    ----------
    rate
        Chance of a number to be dropped.
    part
        Which part of an item's activations this rank has, see
        :meth:`~hpcsamp.layers.ModelAxis.part`.
    """

    def __init__(self, rate: float, part: Part) -> None:
        super().__init__()
        self.rate, self.part = rate, part

    def forward(self, x: Tensor) -> Tensor:
        """``(B, *part.local)`` to the same."""
        with drawn_for(self.part):
            return F.dropout(x, self.rate, self.training)
