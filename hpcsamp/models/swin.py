"""The weather model of the paper's third use case (section 5.4 and Figure 3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from hpcsamp import layers
from hpcsamp.config import NOTHING
from hpcsamp.models.fields import FieldNetwork
from hpcsamp.models.inputs import check_input, one_shape
from hpcsamp.models.recompute import recomputed
from hpcsamp.models.windows import Block, Downsample, Upsample, WindowGrid


class Swin(FieldNetwork):
    """Shifted-window transformer on a latitude-longitude grid, periodic in longitude.

    A convolution maps patches of 2 x 2 to tokens. Blocks follow at that resolution, at half of it
    with twice the width, and again at the first resolution, whose input is concatenated with their
    output (the skip of Pangu-Weather); a transposed convolution maps tokens to fields. As in the
    paper, there is no learned positional embedding; positions are in the input's own features and,
    at the poles, in the masks. ``relative_bias`` adds the bias that is usual for such models; it
    would be 0.06 % of the parameters, so their number does not show whether the paper's model has
    one.

    The windows of 8 x 12 tokens are our choice (the paper does not state any; Pangu-Weather has
    6 x 12): the 61 rows of patches are padded to 64 rather than 72. The last three rows are
    padding, hidden from all others by masks and removed at the end.

    Parameters of the defaults, for 76 x 121 x 240 in and 69 x 121 x 240 out, width ``w = 540``::

        patches to tokens    4 * 76 * w + w                    164,700
        12 blocks of w       12 * (12 * w^2 + 13 * w)       42,074,640
        downsampling         8 * w + 8 * w^2                 2,337,120
        4 blocks of 2 w      4 * (48 * w^2 + 26 * w)        56,043,360
        upsampling           9 * w^2 + 2 * w                 2,625,480
        tokens to patches    2 * w * 69 * 4 + 69               298,149
        all                                                103,543,449

    48,600 of them belong to layer norms and stay deterministic, as in torch_blue, so mean-field VI
    trains 2 * 103,494,849 + 48,600 = 207,038,298 parameters. The paper's "over 200 million"
    therefore counts means and standard deviations.

    On M model ranks (:func:`hpcsamp.layers.along`) each rank holds 1/M of the parameters and of the
    activations: its heads, hidden units, channels and fields along the channel axis, and its
    longitudes, in whole windows of both grids, along the spatial axis. M = 4 halves both; any other
    M splits the heads, if their number is divisible, else the longitudes into as few parts as
    possible. See :meth:`input_part` and :meth:`output_part`; shares of fields may be uneven.

    Source: the paper, section 5.4; Liu et al. 2021 (shifted windows); Bi et al. 2023 and To et al.
    2024 (down- and upsampling, the skip, two-dimensional windows).

    Parameters
    ----------
    in_shape
        ``(channels, latitudes, longitudes)`` of an item.
    outputs
        Number of output values per item: whole fields of ``latitudes x longitudes``.
    patch
        Side of a patch, which divides the longitudes. Latitudes are padded with zeros to whole
        patches.
    width
        Width of the embedding; it is doubled at half resolution.
    heads
        Heads at the first and at half resolution; they divide the widths.
    blocks
        Number of blocks before downsampling, at half resolution, and after upsampling. Every second
        block is shifted.
    window
        Rows and columns of a window, in tokens. Columns divide the columns of both grids; rows are
        padded.
    relative_bias
        Whether attention learns a bias for the offset of two tokens in a window.
    dropout
        Dropout rate of the outputs of attention and perceptrons.
    checkpoint
        Keep only the input of each block and recompute the block in the backward pass: much less
        memory for a third more work.

    Raises
    ------
    ValueError
        If patches, windows or heads do not divide, or outputs are not fields; the message contains
        both numbers.
    UsageError
        If heads, windows and fields cannot be split over the model ranks.
    """

    name = "swin"

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
        dropout: float = 0.0,
        checkpoint: Annotated[bool, NOTHING] = False,
    ) -> None:
        super().__init__()
        in_shape = one_shape(in_shape, "swin")
        _check_lengths(in_shape, heads, blocks, window)
        channels, latitudes, longitudes = in_shape
        if outputs % (latitudes * longitudes):
            raise ValueError(
                f"{outputs} outputs are not fields of {latitudes} x {longitudes} = "
                f"{latitudes * longitudes} values"
            )
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout = {dropout} must be a rate, at least 0 and below 1")
        tall, wide = window
        columns = _columns(longitudes, patch, (tall, wide))
        for name, count, w in (("first", heads[0], width), ("second", heads[1], 2 * width)):
            if w % count:
                raise ValueError(f"heads = {count} ({name} stage) do not divide the width {w}")
        self.in_shape = (channels, latitudes, longitudes)
        self.out_shape = (outputs // (latitudes * longitudes), latitudes, longitudes)
        self.latitudes, self.patch, self.checkpoint = latitudes, patch, checkpoint
        self.fields = self.out_shape[0]
        self.axis = layers.current().fitted(
            "swin",
            {"heads of the first stage": heads[0], "of the second": heads[1]},
            {"columns of windows at half resolution": columns // 2 // wide},
            min(channels, self.fields),
        )
        grids = _grids(latitudes, columns, patch, (tall, wide), self.axis.space.size)
        self.fine, self.coarse = fine, coarse = grids

        def stage(grid: WindowGrid, width: int, heads: int, count: int, name: str) -> nn.ModuleList:
            return nn.ModuleList(
                Block(grid, width, heads, bool(i % 2), relative_bias, dropout, f"swin.{name}.{i}")
                for i in range(count)
            )

        with layers.along(self.axis):
            self.patches = layers.patches(channels, width, patch, name="swin.patches")
            self.before = stage(fine, width, heads[0], blocks[0], "before")
            self.downsample = Downsample(fine, width, "swin.downsample")
            self.between = stage(coarse, 2 * width, heads[1], blocks[1], "between")
            self.upsample = Upsample(width, "swin.upsample")
            self.after = stage(fine, width, heads[0], blocks[2], "after")
            # channels of the skip beside those of the tokens
            self.recover = layers.unpatched(2 * width, self.fields, patch, 2, "swin.recover")
        self._local = self.input_part(self.in_shape).local

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, channels, latitudes, longitudes)`` to fields, both this rank's part."""
        check_input(x, self._local, self)
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
            least = "of at least 0" if name == "blocks" else "of at least 1"
            raise ValueError(f"{name} = {list(values)} must be {count} integers {least}")


def _columns(longitudes: int, patch: int, window: tuple[int, int]) -> int:
    """Number of token columns of the whole grid at the first resolution."""
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
    return columns


def _grids(
    latitudes: int, columns: int, patch: int, window: tuple[int, int], parts: int
) -> tuple[WindowGrid, WindowGrid]:
    """The grids of tokens at the first and at half resolution, split over the spatial axis."""
    real = -(-latitudes // patch)
    rows = -(-real // (2 * window[0])) * 2 * window[0]
    return (
        WindowGrid(rows, columns, real, window, parts),
        WindowGrid(rows // 2, columns // 2, -(-real // 2), window, parts),
    )
