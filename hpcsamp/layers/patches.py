"""Map square patches of fields to tokens and back: torch's convolutions, split over ranks.

Like :func:`~hpcsamp.layers.linear`, they are torch's own on one rank. Rows or columns of patches
are split over the spatial axis, and channels of tokens over the channel axis. Fields are split over
the channel axis, too, unless there are too few of them; then each of its ranks holds all fields.
"""

from __future__ import annotations

from torch import Tensor, nn

from hpcsamp.layers.axis import current
from hpcsamp.layers.blocks import in_blocks_of, in_order
from hpcsamp.layers.exchange import gather
from hpcsamp.layers.layer import Divided, Layer
from hpcsamp.layers.product import Kind, Split, product
from hpcsamp.layers.rows import rows


def patches(
    fields: int, width: int, patch: int, whole_fields: bool = False, name: str = "patches"
) -> nn.Module:
    """``nn.Conv2d`` with kernel and stride ``patch``, split over ranks: see :class:`Patches`."""
    whole = nn.Conv2d(fields, width, patch, stride=patch)
    return whole if current().size == 1 else Patches(whole, whole_fields, name)


def unpatched(width: int, fields: int, patch: int, blocks: int = 1, name: str = "") -> nn.Module:
    """``nn.ConvTranspose2d`` with kernel and stride ``patch``, split: see :class:`Unpatched`."""
    whole = nn.ConvTranspose2d(width, fields, patch, stride=patch)
    return whole if current().size == 1 else Unpatched(whole, blocks, name or "unpatched")


class Patches(Layer):
    """Map each patch to a token; each rank computes its own channels of the tokens.

    Exchanges are those of :class:`~hpcsamp.layers.rows.Rows` with ``fields x patch^2`` inputs.

    Parameters
    ----------
    whole
        The whole convolution, which has the initial values.
    whole_fields
        Whether every rank of the channel axis holds all fields.
    name
        Name of the layer, for messages.
    """

    weight: nn.Parameter
    bias: nn.Parameter

    def __init__(self, whole: nn.Conv2d, whole_fields: bool, name: str) -> None:
        super().__init__()
        over, other = self.axis.channels, self.axis.space
        width, fields, self.patch, _ = whole.weight.shape
        points = self.patch**2
        self.inputs_per_output = fields * points
        own = Split(self.axis.alone, (fields,))
        if not whole_fields:
            own = Divided(name, "fields", fields, over, other).split
        self._in = in_blocks_of(own, points)
        self._out = Divided(name, "channels", width, over, other)
        sides = ((0, fields), (0, self.patch), (0, self.patch))
        self.hold("weight", whole.weight.detach(), (self._out.held, *sides))
        assert whole.bias is not None
        self.hold("bias", whole.bias.detach(), (self._out.held,))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, own fields, own rows, columns)`` to ``(B, own channels, rows, columns)``."""
        p = self.patch
        apart = x.unflatten(-1, (-1, p)).unflatten(-3, (-1, p))
        points = apart.permute(0, 2, 4, 1, 3, 5).flatten(3)
        shape = points.shape[:-1]
        weight = self.weight.flatten(1)
        y = rows(points.reshape(1, -1, points.shape[-1]), weight[None], self._in, self._out.shares)
        y = y.view(*shape, y.shape[-1]) + self._out.whole_part(self.bias)
        return y.permute(0, 3, 1, 2)


class Unpatched(Layer):
    """Map tokens to fields; each rank of the channel axis computes the terms of its own channels.

    A rank sends the terms of the other ranks' fields to these ranks, and its share of the weight,
    which should be small, to the ranks of the spatial axis that need the same weight. This takes
    one exchange in each direction for R > 1 ranks on the channel axis, and two (and one for the
    bias) for G > 1 ranks on the spatial axis.

    Parameters
    ----------
    whole
        The whole convolution, which has the initial values.
    blocks
        Number of blocks of channels side by side; a rank holds a part of each block.
    name
        Name of the layer, for messages.
    """

    weight: nn.Parameter
    bias: nn.Parameter

    def __init__(self, whole: nn.ConvTranspose2d, blocks: int, name: str) -> None:
        super().__init__()
        over, other = self.axis.channels, self.axis.space
        width, fields, self.patch, _ = whole.weight.shape
        self.inputs_per_output = fields * self.patch**2
        self.blocks = blocks
        self._in = Divided(name, "channels", width // blocks, over, other)
        self._out = Divided(name, "fields", fields, over, other)
        sides = ((0, fields), (0, self.patch), (0, self.patch))
        self.hold("weight", whole.weight.detach(), (self._in.held, *sides), blocks)
        assert whole.bias is not None
        self.hold("bias", whole.bias.detach(), (self._out.held,))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, own channels, rows, columns)`` to ``(B, own fields, own rows, columns)``."""
        tokens, p = x.permute(0, 2, 3, 1), self.patch
        shares = self._in.shares
        weight = gather(self.weight.flatten(1), -2, *in_blocks_of(shares, self.blocks))
        weight = in_order(weight.mT, shares, self.blocks).mT
        kept = in_blocks_of(self._out.split, p * p)
        flat = tokens.reshape(1, -1, tokens.shape[-1])
        y = product(flat, weight[None], Split(self.axis.alone, (len(weight),)), kept, Kind.INNER)
        apart = y.view(*tokens.shape[:-1], -1, p, p)  # items, rows, columns, fields
        fields = apart.permute(0, 3, 1, 4, 2, 5).flatten(-2).flatten(-3, -2)
        return fields + self._out.whole_part(self.bias)[:, None, None]
