"""The weather model of the paper's third use case (section 5.4 and Figure 3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from hpcsamp.config import NOTHING
from hpcsamp.models.inputs import check_input, one_shape
from hpcsamp.models.recompute import recomputed
from hpcsamp.models.windows import Block, Downsample, Grid, Upsample


class Swin(nn.Module):
    """Shifted-window transformer on a latitude-longitude grid, periodic in longitude.

    Patches of 2 x 2 become tokens by a convolution; blocks at that resolution, blocks at half of it
    and twice the width, blocks at the first resolution again, whose input joins their output (the
    skip of Pangu-Weather); a transposed convolution makes fields of them. There is no learned
    positional embedding, as the paper says; positions come in with the input's own features, and at
    the poles by the masks. ``relative_bias`` adds the bias that is usual for such models; it would
    be 0.06 % of the parameters, so their number does not tell whether the paper's has one.

    The windows of 8 x 12 tokens are our choice (the paper does not give any; Pangu-Weather has
    6 x 12): the 61 rows of patches become 64 rather than 72, of which the last three are padding,
    hidden from all others by masks and cut off in the end.

    Parameters of the defaults, for 76 x 121 x 240 in and 69 x 121 x 240 out, width ``w = 540``::

        patches to tokens    4 * 76 * w + w                    164,700
        12 blocks of w       12 * (12 * w^2 + 13 * w)       42,074,640
        downsampling         8 * w + 8 * w^2                 2,337,120
        4 blocks of 2 w      4 * (48 * w^2 + 26 * w)        56,043,360
        upsampling           9 * w^2 + 2 * w                 2,625,480
        tokens to patches    2 * w * 69 * 4 + 69               298,149
        all                                                103,543,449

    48,600 of them belong to layer norms and stay deterministic, as in torch_blue, so mean-field VI
    trains 2 * 103,494,849 + 48,600 = 207,038,298 numbers. The paper's "over 200 million" therefore
    counts means and standard deviations.

    Source: the paper, section 5.4; Liu et al. 2021 (shifted windows); Bi et al. 2023 and To et al.
    2024 (down- and upsampling, the skip, two-dimensional windows).

    Parameters
    ----------
    in_shape
        ``(channels, latitudes, longitudes)`` of an item.
    outputs
        Numbers per item: fields of ``latitudes x longitudes``.
    patch
        Side of a patch. Latitudes are padded with zeros to whole patches; longitudes must divide.
    width
        Of the embedding; twice that at half resolution.
    heads
        At the first and at half resolution; they divide their widths.
    blocks
        Before downsampling, at half resolution, after upsampling. Every second one is shifted.
    window
        Rows and columns of a window, in tokens. Columns divide the columns of both grids; rows are
        padded.
    relative_bias
        Whether attention learns a bias for the offset of two tokens in a window.
    checkpoint
        Keep nothing of a block but its input and compute it again in the backward pass: much less
        memory for a third more work.

    Raises
    ------
    ValueError
        If patches, windows or heads do not divide, or outputs are no fields, naming both numbers.
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        outputs: int,
        patch: int = 2,
        width: int = 540,
        heads: Sequence[int] = (12, 24),
        blocks: Sequence[int] = (6, 4, 6),
        window: Sequence[int] = (8, 12),
        relative_bias: bool = False,
        checkpoint: Annotated[bool, NOTHING] = False,
    ) -> None:
        super().__init__()
        in_shape = one_shape(in_shape, "swin")
        _check_lengths(in_shape, heads, blocks, window)
        channels, latitudes, longitudes = in_shape
        if outputs % (latitudes * longitudes):
            raise ValueError(
                f"{outputs} outputs are no fields of {latitudes} x {longitudes} = "
                f"{latitudes * longitudes} values"
            )
        fine, coarse = _grids(latitudes, longitudes, patch, (window[0], window[1]))
        for name, count, w in (("first", heads[0], width), ("second", heads[1], 2 * width)):
            if w % count:
                raise ValueError(f"heads = {count} ({name} stage) do not divide the width {w}")
        self.in_shape = (channels, latitudes, longitudes)
        self.latitudes, self.patch, self.checkpoint = latitudes, patch, checkpoint
        self.fields = outputs // (latitudes * longitudes)
        self.fine, self.coarse = fine, coarse

        def stage(grid: Grid, width: int, heads: int, count: int) -> nn.ModuleList:
            return nn.ModuleList(
                Block(grid, width, heads, bool(i % 2), relative_bias) for i in range(count)
            )

        self.patches = nn.Conv2d(channels, width, patch, stride=patch)
        self.before = stage(fine, width, heads[0], blocks[0])
        self.downsample = Downsample(fine, width)
        self.between = stage(coarse, 2 * width, heads[1], blocks[1])
        self.upsample = Upsample(width)
        self.after = stage(fine, width, heads[0], blocks[2])
        self.recover = nn.ConvTranspose2d(2 * width, self.fields, patch, stride=patch)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, channels, latitudes, longitudes)`` to ``(B, fields, latitudes, longitudes)``."""
        check_input(x, self.in_shape, self)
        x = F.pad(x, (0, 0, 0, self.fine.real * self.patch - self.latitudes))
        tokens = self.patches(x).permute(0, 2, 3, 1)
        tokens = F.pad(tokens, (0, 0, 0, 0, 0, self.fine.rows - self.fine.real))
        skip = tokens = self._through(self.before, tokens)
        tokens = self._through(self.between, self.downsample(tokens))
        tokens = self._through(self.after, self.upsample(tokens))
        tokens = torch.cat([skip, tokens], dim=-1)[:, : self.fine.real]
        y: Tensor = self.recover(tokens.permute(0, 3, 1, 2))
        return y[:, :, : self.latitudes]

    def _through(self, blocks: nn.ModuleList, x: Tensor) -> Tensor:
        keep = not (self.checkpoint and torch.is_grad_enabled())
        for block in blocks:
            x = block(x) if keep else recomputed(block, x)
        return x


def _check_lengths(
    in_shape: Sequence[int], heads: Sequence[int], blocks: Sequence[int], window: Sequence[int]
) -> None:
    if len(in_shape) != 3:
        raise ValueError(
            f"items must be (channels, latitudes, longitudes), got {len(in_shape)} axes: "
            f"{tuple(in_shape)}"
        )
    for name, values, count in (("heads", heads, 2), ("blocks", blocks, 3), ("window", window, 2)):
        if len(values) != count or min(values) < (name != "blocks"):
            raise ValueError(f"{name} = {list(values)}: {count} positive numbers are needed")


def _grids(
    latitudes: int, longitudes: int, patch: int, window: tuple[int, int]
) -> tuple[Grid, Grid]:
    """The grids of tokens at the first and at half resolution."""
    if longitudes % patch:
        raise ValueError(f"patch = {patch} does not divide {longitudes} longitudes")
    columns = longitudes // patch
    if columns % 2:
        raise ValueError(f"{columns} columns of patches cannot be halved")
    for name, width in (("first", columns), ("second", columns // 2)):
        if width % window[1]:
            raise ValueError(
                f"window = {list(window)}: {window[1]} columns do not divide the {width} of the "
                f"{name} stage's grid"
            )
    real = -(-latitudes // patch)
    rows = -(-real // (2 * window[0])) * 2 * window[0]
    return (
        Grid(rows, columns, real, window),
        Grid(rows // 2, columns // 2, -(-real // 2), window),
    )
