"""Multi-head attention: heads lie on the ranks of channels, tokens on those of space."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from hpcsamp.layers.exchange import gather
from hpcsamp.layers.layer import Divided
from hpcsamp.layers.linear import Linear


class Attention(nn.Module):
    """Every token's mean of the values of all tokens, weighted by how its query fits their keys.

    Queries, keys and values of a head are neighbours among the outputs of one linear layer, so that
    a rank has those of its own heads; on several ranks of space, keys and values are gathered over
    these. Exchanges are those of two :class:`~hpcsamp.layers.Linear` layers, of ``width`` to
    ``3 width`` and of ``width`` to ``width`` channels, and on G ranks of space one each way, in
    which a rank sends ``2 (G - 1)`` times its tokens times its channels.

    Parameters
    ----------
    tokens
        How many there are on all ranks of space.
    width, heads
        Channels; heads divide them.
    unit
        Neighbouring tokens that stay on one rank.
    name
        Of the layer, for messages.

    Raises
    ------
    ValueError
        If heads do not divide the channels, with both numbers.
    UsageError
        If there are fewer heads than ranks of channels.
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
        """``(..., own tokens, own channels)`` to the same."""
        own = self.inputs(x).unflatten(-1, (-1, 3, self.size)).transpose(-3, -4)
        q, pairs = own[..., 0, :], own[..., 1:, :].flatten(-2)  # heads before tokens
        k, v = gather(pairs, -2, *self._tokens).split(self.size, -1)
        y: Tensor = self.outputs(
            F.scaled_dot_product_attention(q, k, v).transpose(-2, -3).flatten(-2)
        )
        return y
