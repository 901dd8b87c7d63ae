"""Multi-head attention with heads split over the channel axis, and tokens over the spatial axis."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from hpcsamp.layers.exchange import gather
from hpcsamp.layers.layer import Divided
from hpcsamp.layers.linear import Linear


class Attention(nn.Module):
    """Multi-head attention: mean of the values, weighted by the similarity of key and query.

    Queries, keys and values of a head are neighbours among the outputs of one linear layer, so that
    a rank holds those of its own heads; if the spatial axis has several ranks, keys and values are
    gathered over it. The exchanges are those of two :class:`~hpcsamp.layers.Linear` layers, from
    ``width`` to ``3 width`` and from ``width`` to ``width`` channels. With G > 1 ranks on
    the spatial axis there is one more exchange in each direction, in which a rank sends
    ``2 (G - 1)`` times its tokens times its channels.

    Parameters
    ----------
    tokens
        Number of tokens on all ranks of the spatial axis.
    width, heads
        Number of channels, and of heads, which divides it.
    unit
        Number of neighbouring tokens that stay on one rank.
    name
        Name of the layer, for messages.

    Raises
    ------
    ValueError
        If the heads do not divide the channels evenly; the message contains both numbers.
    UsageError
        If there are fewer heads than ranks of the channel axis.
    """

    def __init__(
        self, tokens: int, width: int, heads: int, unit: int = 1, name: str = "attention"
    ) -> None:
        super().__init__()
        if heads < 1 or width % heads:
            raise ValueError(f"{name}: {heads} heads do not divide {width} channels")
        self.size = width // heads
        self.inputs = Linear(width, 3 * width, out_unit=3 * self.size, name=f"{name}.inputs")
        self.outputs = Linear(width, width, in_unit=self.size, name=f"{name}.outputs")
        axis = self.inputs.axis
        self._tokens = Divided(name, "tokens", tokens, axis.space, axis.channels, unit).split

    def forward(self, x: Tensor) -> Tensor:
        """Map this rank's ``(..., tokens, channels)`` to the same shape."""
        own = self.inputs(x).unflatten(-1, (-1, 3, self.size)).transpose(-3, -4)
        q, pairs = own[..., 0, :], own[..., 1:, :].flatten(-2)  # heads before tokens
        k, v = gather(pairs, -2, *self._tokens).split(self.size, -1)
        y: Tensor = self.outputs(
            F.scaled_dot_product_attention(q, k, v).transpose(-2, -3).flatten(-2)
        )
        return y
