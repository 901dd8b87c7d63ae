"""The vision transformer of the paper's first use case (section 5.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from hpcsamp.config import NOTHING
from hpcsamp.models.attention import attend
from hpcsamp.models.inputs import check_input, one_shape
from hpcsamp.models.recompute import recomputed


class ViT(nn.Module):
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
    torch_blue; it trains 2 * 2,688,586 + 4,992 = 5,382,164 numbers.

    Initial values are Kaiming's uniform ones (torch's and torch_blue's for linear layers and
    convolutions); they are the means of a mean-field posterior. The paper's standard deviations
    "scaled inversely with the layer width" are ``method.scale_std = true``.

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
        Width of the embedding; divided by ``heads``.
    heads, layers, hidden
        Attention heads, encoder layers, hidden units of each layer's MLP.
    checkpoint
        Keep nothing of a layer but its input and compute it again in the backward pass: less memory
        for a third more work.

    Raises
    ------
    ValueError
        If patches or heads do not divide, naming both numbers.
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        outputs: int,
        patch: int = 4,
        width: int = 192,
        heads: int = 3,
        layers: int = 6,
        hidden: int = 768,
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
        tokens = (rows // patch) * (columns // patch)
        self.in_shape, self.checkpoint = (channels, rows, columns), checkpoint
        self.patches = nn.Conv2d(channels, width, patch, stride=patch)
        # in place, which needs no more than C++ on the meta device (see models.blank)
        self.token = nn.Parameter(torch.empty(1, 1, width).normal_().mul_(0.02))
        self.positions = nn.Parameter(torch.empty(1, tokens + 1, width).normal_().mul_(0.02))
        self.encoder = nn.Sequential(*(Layer(width, heads, hidden) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` images to ``(B, outputs)`` logits."""
        check_input(x, self.in_shape, self)
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(x), -1, -1), tokens], dim=1) + self.positions
        keep = not (self.checkpoint and torch.is_grad_enabled())
        for layer in self.encoder:
            tokens = layer(tokens) if keep else recomputed(layer, tokens)
        y: Tensor = self.head(self.norm(tokens[:, 0]))
        return y


class Layer(nn.Module):
    """Pre-norm encoder layer: self-attention, then a two-layer perceptron, each with a residual."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, tokens, width)`` to the same."""
        x = x + self.out(attend(self.qkv(self.norm1(x)), self.heads))
        y: Tensor = x + self.down(F.gelu(self.up(self.norm2(x))))
        return y
