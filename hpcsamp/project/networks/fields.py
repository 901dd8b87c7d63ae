"""A network for fields and pictures whose targets lie on the same grid."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class Network(nn.Module):
    """Three convolutions; edit them freely. Any module is suitable that maps (batch, *in_shape) to
    fields, or to classes of each pixel: (batch, fields, rows, columns).
    """

    def __init__(self, in_shape: Sequence[int], fields: int, width: int = 32) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(in_shape[0], width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, fields, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs of a batch."""
        y: Tensor = self.layers(x)
        return y
