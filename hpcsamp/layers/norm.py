"""Layer normalisation over channels that lie in parts on the model ranks, exact."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from hpcsamp.layers.blocks import in_blocks_of, in_order
from hpcsamp.layers.exchange import gather
from hpcsamp.layers.layer import Divided, Layer


class LayerNorm(Layer):
    """Normalise every token over all of its channels.

    Each rank has mean and variance of its own channels; those of all ranks are
    put together by Chan's formula, which loses no digits where means are large. A rank sends two
    numbers for each token to each of the others of its channels, and as many backward; weight and
    bias are gathered over space.

    Parameters
    ----------
    channels
        Of a token.
    eps
        Added to the variance.
    blocks
        Blocks of channels side by side, of each of which a rank has its part.
    name
        Of the layer, for messages.
    """

    deterministic: ClassVar[tuple[str, ...]] = ("weight", "bias")
    weight: nn.Parameter
    bias: nn.Parameter

    def __init__(
        self, channels: int, eps: float = 1e-5, blocks: int = 1, name: str = "a layer norm"
    ) -> None:
        super().__init__()
        self.channels, self.eps, self.blocks = channels, eps, blocks
        over, other = self.axis.channels, self.axis.space
        self._divided = Divided(name, "channels", channels // blocks, over, other)
        self.hold("weight", torch.ones(channels), (self._divided.held,), blocks)
        self.hold("bias", torch.zeros(channels), (self._divided.held,), blocks)

    def _own(self, parameter: Tensor) -> Tensor:
        """A parameter for the own channels, of which this rank holds its share."""
        shares = self._divided.shares
        whole = gather(parameter, -1, *in_blocks_of(shares, self.blocks))
        return in_order(whole, shares, self.blocks)

    def forward(self, x: Tensor) -> Tensor:
        """``(..., own channels)`` to the same."""
        weight, bias = (self._own(p) for p in (self.weight, self.bias))
        if self.axis.channels.size == 1:
            return F.layer_norm(x, (self.channels,), weight, bias, self.eps)
        own = torch.var_mean(x, -1, correction=0)
        everyone = gather(torch.stack(own, -1)[..., None, :], -2, self.axis.channels)
        variances, means = everyone[..., 0], everyone[..., 1]
        counts = means.new_tensor(in_blocks_of(self._divided.split, self.blocks).lengths)
        overall = (means * counts).sum(-1, keepdim=True) / self.channels
        squares = counts * (variances + (means - overall).square())
        scale = (squares.sum(-1, keepdim=True) / self.channels + self.eps).rsqrt()
        return torch.addcmul(bias, (x - overall) * scale, weight)
