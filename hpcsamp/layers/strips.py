"""Map strips of longitudes to tokens and back: convolutions that do not overlap.

Tokens are ordered by strips and within these by latitudes, so that a range of longitudes is a range
of tokens. Fields are split over the channel axis, longitudes over the spatial axis.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hpcsamp.layers.layer import Divided, Layer
from hpcsamp.layers.linear import Linear


class StripEmbedding(nn.Module):
    """Map each strip at each latitude to a token: a convolution of kernel and stride (1, strip).

    Exchanges are those of a :class:`~hpcsamp.layers.Linear` layer with ``fields x strip`` inputs.

    Parameters
    ----------
    fields, channels
        Numbers of input fields and output channels.
    strip
        Number of longitudes of a strip.
    name
        Name of the layer, for messages.
    """

    def __init__(self, fields: int, channels: int, strip: int, name: str = "embedding") -> None:
        super().__init__()
        self.strip = strip
        self.map = Linear(fields * strip, channels, in_unit=strip, name=name)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, own fields, latitudes, own longitudes)`` to ``(B, own tokens, channels)``."""
        strips = x.unflatten(-1, (-1, self.strip)).permute(0, 3, 2, 1, 4)
        y: Tensor = self.map(strips.flatten(3).flatten(1, 2))
        return y


class StripExpansion(Layer):
    """Map tokens to fields: a transposed convolution of kernel and stride (1, strip).

    Exchanges are those of a :class:`~hpcsamp.layers.Linear` layer with ``fields x strip`` outputs.

    Parameters
    ----------
    channels, fields
        Numbers of input channels and output fields.
    strip, latitudes
        Number of longitudes of a strip, and of rows of the fields.
    name
        Name of the layer, for messages.
    """

    bias: nn.Parameter

    def __init__(
        self, channels: int, fields: int, strip: int, latitudes: int, name: str = "expansion"
    ) -> None:
        super().__init__()
        self.inputs_per_output, self.latitudes, self.strip = channels, latitudes, strip
        self.map = Linear(channels, fields * strip, False, out_unit=strip, name=name)
        self._fields = Divided(name, "fields", fields, self.axis.channels, self.axis.space)
        limit = channels**-0.5
        whole = torch.empty(fields).uniform_(-limit, limit)
        self.hold("bias", whole, (self._fields.held,))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, own tokens, channels)`` to ``(B, own fields, latitudes, own longitudes)``."""
        y = self.map(x).unflatten(1, (-1, self.latitudes)).unflatten(-1, (-1, self.strip))
        fields = y.permute(0, 3, 2, 1, 4).flatten(-2)
        return fields + self._fields.whole_part(self.bias)[:, None, None]
