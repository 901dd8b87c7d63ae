"""Perceptron over the tokens, which mixes the values of each channel at all positions in space.

Between its two products the hidden rows are split, each with all channels: the ranks of the channel
axis exchange their channels before the first product and the terms of their sums after the second,
so that each rank needs only its own part of both weights.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from hpcsamp.layers.layer import Divided, Layer, uniform
from hpcsamp.layers.product import Kind, Split, product


class _Tokens(Layer):
    """Base class of the two products that mix tokens: the split of tokens and hidden rows.

    The hidden rows are split over the channel axis and then over the spatial axis. Both weights
    have the shape ``(hidden, tokens)``; a rank holds the hidden rows of its part of the channels,
    and the columns of its part of space.
    """

    weight: nn.Parameter
    bias: nn.Parameter

    def __init__(self, tokens: int, hidden: int, unit: int, name: str) -> None:
        super().__init__()
        space, channels = self.axis.space, self.axis.channels
        self._tokens = Divided(name, "tokens", tokens, space, channels, unit)
        self._hidden = Divided(name, "hidden rows", hidden, channels, space)
        self._box = (self._hidden.own, self._tokens.own)


class TokensUp(_Tokens):
    """First product ``h = W x + b``, with W ``(hidden, tokens)``.

    A rank gathers the other channels of its tokens, multiplies, and sends terms over space.

    Parameters
    ----------
    tokens, hidden
        Numbers of input rows (tokens) and output rows (hidden).
    unit
        Number of neighbouring tokens that stay on one rank.
    name
        Name of the layer, for messages.
    """

    def __init__(self, tokens: int, hidden: int, unit: int = 1, name: str = "tokens") -> None:
        super().__init__(tokens, hidden, unit, name)
        self.inputs_per_output = tokens
        self.hold("weight", uniform((hidden, tokens), tokens), self._box)
        self.hold("bias", uniform((hidden,), tokens), (self._hidden.held,))

    def forward(self, x: Tensor, columns: Split) -> Tensor:
        """Map ``(own tokens, own columns)`` to ``(own hidden rows, columns)``.

        ``columns``: for each rank of the channel axis, its channels of all items.
        """
        y = product(self.weight[None], x[None], columns, self._hidden.shares, Kind.OUTER)[0]
        return y + self.bias[:, None]


class TokensDown(_Tokens):
    """Second product ``y = W' h + b``, W ``(hidden, tokens)``; parameters: :class:`TokensUp`."""

    def __init__(self, tokens: int, hidden: int, unit: int = 1, name: str = "tokens") -> None:
        super().__init__(tokens, hidden, unit, name)
        self.inputs_per_output = hidden
        self.hold("weight", uniform((hidden, tokens), hidden), self._box)
        self.hold("bias", uniform((tokens,), hidden), (self._tokens.held,))

    def forward(self, h: Tensor, columns: Split) -> Tensor:
        """Map ``(own hidden rows, columns)`` to ``(own tokens, own columns)``."""
        y = product(self.weight.mT[None], h[None], self._hidden.shares, columns, Kind.INNER)[0]
        return y + self._tokens.whole_part(self.bias)[:, None]


class TokenMLP(nn.Module):
    """Perceptron over the tokens of every channel: linear map, activation, linear map.

    With R ranks on the channel axis and G on the spatial axis, N = items x own channels and B bytes
    per value, a rank sends::

        forward    own tokens N (R - 1) B               own values, over the channel axis
                   own hidden part (G - 1) / G N R B    terms of hidden rows, over the spatial axis
                   own hidden rows N R (G - 1) B        hidden rows, over the spatial axis
                   own tokens N (R - 1) B               terms of the outputs
        backward   the same, and once more what the products gathered forward

    in two exchanges forward and three backward for R > 1, two and three for G > 1, and one in each
    direction for the bias of the outputs for R > 1.

    Parameters
    ----------
    tokens, hidden, channels
        Numbers of input rows, of hidden rows, and of channels.
    unit
        Number of neighbouring tokens that stay on one rank.
    activation
        Activation function, element by element.
    name
        Name of the layer, for messages.
    """

    def __init__(
        self,
        tokens: int,
        hidden: int,
        channels: int,
        unit: int = 1,
        activation: Callable[[Tensor], Tensor] = F.gelu,
        name: str = "tokens",
    ) -> None:
        super().__init__()
        self.up = TokensUp(tokens, hidden, unit, f"{name}.up")
        self.down = TokensDown(tokens, hidden, unit, f"{name}.down")
        self.activation = activation
        axis = self.up.axis
        self._channels = Divided(name, "channels", channels, axis.channels, axis.space).split

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., own tokens, own channels)`` to the same shape."""
        if self.up.axis.size == 1:
            h = self.activation(F.linear(x.mT, self.up.weight, self.up.bias))
            return (h @ self.down.weight + self.down.bias).mT
        flat = x.flatten(0, -3).transpose(0, 1) if x.dim() > 2 else x[:, None]
        tokens, items, channels = flat.shape
        columns = self._channels._replace(lengths=tuple(items * n for n in self._channels.lengths))
        h = self.activation(self.up(flat.reshape(tokens, -1), columns))
        y = self.down(h, columns).view(tokens, items, channels).transpose(0, 1)
        return y.reshape(x.shape)
