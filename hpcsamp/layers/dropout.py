"""Dropout of activations that are split over the model ranks."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from hpcsamp.grid.parts import Part
from hpcsamp.weights.routing.slabs import drawn_for


class Dropout(nn.Module):
    """Dropout of activations that are split over model ranks, by tokens, channels or both.

    Draws are identified by their position in an item, so each rank draws the mask of whole items
    (two bytes per value) and uses its part; nothing is exchanged.

    Parameters
    ----------
    rate
        Probability of dropping a value.
    part
        The part of an item's activations that this rank holds, see
        :meth:`~hpcsamp.layers.ModelAxis.part`.
    """

    def __init__(self, rate: float, part: Part) -> None:
        super().__init__()
        self.rate, self.part = rate, part

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, *part.local)`` to the same shape."""
        with drawn_for(self.part):
            return F.dropout(x, self.rate, self.training)
