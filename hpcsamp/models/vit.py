"""The vision transformer of the paper's first use case (section 5.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from hpcsamp import layers as parted
from hpcsamp.config import NOTHING
from hpcsamp.grid.parts import Interval, Part, bounds
from hpcsamp.models.attention import attend
from hpcsamp.models.inputs import check_input, one_shape
from hpcsamp.models.recompute import recomputed


class ViT(parted.Layer):
    """Vision transformer with a class token and pre-norm encoder layers.

    The defaults are the paper's for CIFAR-10: 4x4 patches, width 192, 3 heads, 6 layers, 768 hidden
    units. Parameters for 3 x 32 x 32 in and 10 classes out, width ``w = 192``, hidden ``h = 4 w``::

        patches to tokens    3 * 4 * 4 * w + w                     9,408
        class token          w                                       192
        positions            (64 + 1) * w                         12,480
        6 layers             6 * (4 w^2 + 2 w h + 9 w + h)     2,669,184
        last layer norm      2 w                                     384
        classes              w * 10 + 10                           1,930
        all                                                    2,693,578

    4,992 of them belong to layer norms and stay deterministic under mean-field VI, as in
    torch_blue; it trains 2 * 2,688,586 + 4,992 = 5,382,164 parameters.

    Initial values are drawn from Kaiming's uniform distribution (the default of torch and
    torch_blue for linear layers and convolutions); they are the means of a mean-field posterior.
    The paper's standard deviations "scaled inversely with the layer width" are
    ``method.scale_std = true``.

    On M model ranks (:func:`hpcsamp.layers.along`) each rank holds 1/M of the parameters and of the
    activations: its heads, hidden units and channels along the channel axis, and its rows of
    patches along the spatial axis, whose first rank also has the class token. M = 4 halves heads
    and rows; any other M splits the heads, if their number is divisible, else the rows into as few
    parts as possible. A rank holds its rows of an image, with all channels and columns, and nearly
    1/M of the outputs.

    Source: Dosovitskiy et al. 2021.

    Parameters
    ----------
    in_shape
        ``(channels, height, width)`` of an image.
    outputs
        Number of classes.
    patch
        Side of a square patch in pixels; divides height and width.
    width
        Width of the embedding; divisible by ``heads``.
    heads, layers, hidden
        Attention heads, encoder layers, hidden units of each layer's MLP.
    dropout
        Dropout rate of the outputs of attention and MLPs.
    checkpoint
        Keep only the input of each layer and recompute the layer in the backward pass: less memory
        for a third more work.

    Raises
    ------
    ValueError
        If patches or heads do not divide; the message contains both numbers.
    UsageError
        If heads and rows of patches cannot be split over the model ranks.
    """

    token: nn.Parameter
    positions: nn.Parameter

    def __init__(
        self,
        in_shape: Sequence[int],
        outputs: int,
        patch: int = 4,
        width: int = 192,
        heads: int = 3,
        layers: int = 6,
        hidden: int = 768,
        dropout: float = 0.0,
        checkpoint: Annotated[bool, NOTHING] = False,
    ) -> None:
        super().__init__()
        in_shape = one_shape(in_shape, "vit")
        if len(in_shape) != 3:
            raise ValueError(f"items must be (channels, height, width), got {tuple(in_shape)}")
        channels, rows, columns = in_shape
        if rows % patch or columns % patch:
            raise ValueError(f"patch = {patch} does not divide images of {rows} x {columns}")
        if width % heads:
            raise ValueError(f"heads = {heads} do not divide width = {width}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout = {dropout} must be a rate, at least 0 and below 1")
        lines, each = rows // patch, columns // patch
        self.in_shape, self.out_shape = (channels, rows, columns), (outputs,)
        self.checkpoint, self.patch = checkpoint, patch
        self.axis = parted.current().fitted("vit", {"heads": heads}, {"rows of patches": lines})
        space, over = self.axis.space, self.axis.channels
        self._split, own = _tokens(lines, each, space)
        with parted.along(self.axis):
            self.patches = parted.patches(channels, width, patch, True, "vit.patches")
            part = self.axis.part((1, 1, width), channels=2).box[2]
            self.inputs_per_output = (1 + lines * each) * width
            # in place, which needs no more than C++ on the meta device (see models.blank)
            token = torch.empty(1, 1, width).normal_().mul_(0.02)
            self.hold("token", token, ((0, 1), (0, int(space.rank == 0)), part))
            positions = torch.empty(1, 1 + lines * each, width).normal_().mul_(0.02)
            self.hold("positions", positions, ((0, 1), own, part))
            place = Part((1 + lines * each, width), (own, part))
            self.encoder = nn.Sequential(
                *(
                    EncoderLayer(
                        width, heads // over.size, hidden, dropout, self._split, place, name
                    )
                    for name in (f"vit.encoder.{i}" for i in range(layers))
                )
            )
            self.norm = parted.layer_norm(width, name="vit.norm")
            self.head = parted.last_linear(width, outputs, "vit.head")
            self._outputs = parted.outputs_of(outputs)
        self._local = self.input_part(self.in_shape).local

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C, H, W)`` images to ``(B, outputs)`` logits, both this rank's part."""
        check_input(x, self._local, self)
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(x), -1, -1), tokens], dim=1) + self.positions
        keep = not (self.checkpoint and torch.is_grad_enabled())
        for layer in self.encoder:
            tokens = layer(tokens) if keep else recomputed(layer, tokens)
        y: Tensor = self.head(self.norm(self._first(tokens)))
        return y

    def _first(self, tokens: Tensor) -> Tensor:
        """Return this rank's channels of the class token, ``(B, c)``, on all spatial ranks."""
        over = self._split.over
        if over.size == 1:
            return tokens[:, 0]
        own = tokens[:, : int(over.rank == 0)]
        return parted.gather(own, -2, over, (1, *[0] * (over.size - 1)))[:, 0]

    def input_part(self, shape: Sequence[int]) -> Part:
        """The rows of an image that this rank computes on.

        Parameters
        ----------
        shape
            Shape of an image.

        Raises
        ------
        ValueError
            If the network was built for a different shape; the message contains both.
        """
        if tuple(shape) != self.in_shape:
            raise ValueError(
                f"images have shape {tuple(shape)}, but the ViT was built for {self.in_shape}"
            )
        return self.axis.part(shape, space=1, unit=self.patch)

    def output_part(self, shape: Sequence[int]) -> Part:
        """The outputs of an image that this rank holds; ``shape`` is ``(outputs,)``."""
        return Part(tuple(shape), (self._outputs,))


def _tokens(lines: int, each: int, space: parted.Group) -> tuple[parted.Split, Interval]:
    """Split of class token and patches over the spatial axis, and this rank's interval."""
    ends = [(a and 1 + a * each, 1 + b * each) for a, b in bounds(lines, space.size)]
    return parted.Split(space, tuple(b - a for a, b in ends)), ends[space.rank]


class EncoderLayer(nn.Module):
    """Pre-norm encoder layer: self-attention, then a two-layer perceptron, each with a residual.

    Parameters
    ----------
    width, hidden
        Channels of a token, and hidden units of the perceptron.
    heads
        Number of attention heads of this rank.
    dropout
        Dropout rate.
    tokens
        Split of the tokens over the ranks of the spatial axis.
    place
        The part of the tokens and channels that this rank holds.
    name
        Name of the layer, for messages.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        hidden: int,
        dropout: float,
        tokens: parted.Split,
        place: Part,
        name: str,
    ) -> None:
        super().__init__()
        self.heads, self._tokens = heads, tokens
        self.norm1 = parted.layer_norm(width, name=f"{name}.norm1")
        self.qkv = parted.linear(width, 3 * width, out_blocks=3, name=f"{name}.qkv")
        self.out = parted.linear(width, width, name=f"{name}.out")
        self.norm2 = parted.layer_norm(width, name=f"{name}.norm2")
        self.up = parted.linear(width, hidden, name=f"{name}.up")
        self.down = parted.linear(hidden, width, name=f"{name}.down")
        self._drop: nn.Module | None = None
        if dropout:
            self._drop = parted.Dropout(dropout, place)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, tokens, channels)`` of this rank to the same shape."""
        x = x + self._dropped(self.out(self._attend(self.qkv(self.norm1(x)))))
        y: Tensor = x + self._dropped(self.down(F.gelu(self.up(self.norm2(x)))))
        return y

    def _attend(self, projections: Tensor) -> Tensor:
        return attend(projections, self.heads, tokens=self._tokens)

    def _dropped(self, x: Tensor) -> Tensor:
        return x if self._drop is None else self._drop(x)
