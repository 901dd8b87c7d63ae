"""A user's network that is split over model ranks, named as ``own_axis:Points``."""

from __future__ import annotations

from torch import nn
from torch.nn import functional as F  # noqa: N812

from hpcsamp import layers


class Points(nn.Module):
    """The same perceptron at every point of a grid."""

    def __init__(self, in_shape, outputs, width=12):
        super().__init__()
        self.axis = layers.current()
        self.out_shape = (outputs // (in_shape[1] * in_shape[2]), *in_shape[1:])
        self.norm = layers.LayerNorm(in_shape[0])
        self.up = layers.Linear(in_shape[0], width)
        self.down = layers.Linear(width, self.out_shape[0])

    def forward(self, x):
        y = self.down(F.gelu(self.up(self.norm(x.movedim(1, -1)))))
        return y.movedim(-1, 1)

    def input_part(self, shape):
        return self.axis.part(shape, channels=0, space=2)

    output_part = input_part
