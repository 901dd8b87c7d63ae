"""Attention within windows on a latitude-longitude grid: periodic in longitude, not in latitude.

Tokens are ``(B, rows, columns, width)``. A shifted block rolls them by half a window in both
directions. The roll wraps around: in longitude, so does the Earth, and nothing is masked; at the
poles it does not, so a mask keeps tokens of the first and last rows apart. Padding rows
after the last latitude (the grid is padded to whole windows) only attend to each other.

Over model ranks (:func:`hpcsamp.layers.along`) columns are split over the spatial axis, in whole
windows, and heads, channels and hidden units over the channel axis. A shifted block exchanges half
a window of columns with the neighbours to the west and to the east.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from hpcsamp import layers
from hpcsamp.models.attention import attend


def row_mask(rows: int, real: int, window: tuple[int, int], shift: int) -> Tensor | None:
    """Mask of the tokens of a window that may attend to each other.

    Parameters
    ----------
    rows
        Number of rows of the grid, a multiple of ``window[0]``.
    real
        Number of rows, from the first, that are latitudes; the others are padding.
    window
        Rows and columns of a window.
    shift
        Number of rows by which the grid was rolled up.

    Returns
    -------
    Tensor or None
        Boolean ``(rows / window[0], T, T)`` for T tokens per window; None if all may.
    """
    if shift == 0 and real == rows:
        return None
    source = (torch.arange(rows) + shift) % rows
    region = 2 * (torch.arange(rows) >= rows - shift).long() + (source >= real).long()
    tokens = region.view(-1, window[0], 1).expand(-1, -1, window[1]).flatten(1)
    return tokens[:, :, None] == tokens[:, None, :]


class WindowGrid(nn.Module):
    """The grid of a stage: its windows and masks, the same for all blocks of the stage.

    Parameters
    ----------
    rows, columns
        Size of the grid, multiples of the window.
    real
        Number of rows that are not padding.
    window
        Rows and columns of a window.
    parts
        Number of ranks of the spatial axis, over which columns are split in whole windows. The
        masks are still those of the whole grid, because buffers belong to the state of a run.
    """

    plain: Tensor | None
    shifted: Tensor | None
    keep: Tensor

    def __init__(
        self, rows: int, columns: int, real: int, window: tuple[int, int], parts: int = 1
    ) -> None:
        super().__init__()
        self.rows, self.columns, self.real, self.window = rows, columns // parts, real, window
        self.parts_of_space = parts
        per_row = columns // window[1]
        for name, shift in (("plain", 0), ("shifted", window[0] // 2)):
            mask = row_mask(rows, real, window, shift)
            if mask is not None:
                mask = mask.repeat_interleave(per_row, dim=0)[:, None]  # (windows, 1, T, T)
            self.register_buffer(name, mask, persistent=False)
        keep = (torch.arange(rows) < real).view(1, rows, 1, 1)
        self.register_buffer("keep", keep, persistent=False)

    def mask(self, shifted: bool) -> Tensor | None:
        """Return the mask of this rank's windows, ``(w, 1, T, T)``; None if nothing is masked."""
        mask = self.shifted if shifted else self.plain
        if mask is None or self.parts_of_space == 1:
            return mask
        own = self.columns // self.window[1]  # all windows of a row have the same mask
        return mask.unflatten(0, (-1, own * self.parts_of_space))[:, :own].flatten(0, 1)

    def cut(self, x: Tensor) -> Tensor:
        """Cut ``(B, rows, columns, n)`` into windows ``(B * windows, T, n)``, row by row."""
        (a, b), n = self.window, x.shape[-1]
        x = x.view(-1, self.rows // a, a, self.columns // b, b, n)
        return x.transpose(2, 3).reshape(-1, a * b, n)

    def join(self, x: Tensor) -> Tensor:
        """The inverse of :meth:`cut`."""
        (a, b), n = self.window, x.shape[-1]
        x = x.view(-1, self.rows // a, self.columns // b, a, b, n)
        return x.transpose(2, 3).reshape(-1, self.rows, self.columns, n)

    def without_padding(self, x: Tensor) -> Tensor:
        """Set the padding rows of the tokens to 0."""
        return x if self.real == self.rows else torch.where(self.keep, x, 0)


class Block(layers.Layer):
    """Pre-norm transformer block whose attention stays within windows (Liu et al. 2021).

    ``12 w^2 + 13 w`` parameters for a width ``w``: ``3 w^2 + 3 w`` of queries, keys and values,
    ``w^2 + w`` of the projection, ``8 w^2 + 5 w`` of the perceptron of ``4 w`` units, ``4 w`` of
    two layer norms. With ``relative_bias`` and windows of ``a x b`` tokens
    ``(2 a - 1) (2 b - 1) heads`` more.

    Parameters
    ----------
    grid
        Grid of the stage.
    width, heads
        Width of the embedding, and number of heads, which divides it.
    shifted
        Whether windows are shifted by half of their size.
    relative_bias
        Whether to learn a bias for each head and each offset of two tokens within a window.
    dropout
        Dropout rate of the outputs of attention and perceptron.
    name
        Name of the layer, for messages.
    """

    offset: Tensor
    bias: nn.Parameter | None

    def __init__(
        self,
        grid: WindowGrid,
        width: int,
        heads: int,
        shifted: bool,
        relative_bias: bool,
        dropout: float = 0.0,
        name: str = "block",
    ) -> None:
        super().__init__()
        self._grid = [grid]  # in a list: the stage registers it, once
        axis = self.axis
        self.heads, self.shifted = heads // axis.channels.size, shifted
        a, b = grid.window
        self.shift = (a // 2, b // 2) if shifted else (0, 0)
        self.norm1 = layers.layer_norm(width, name=f"{name}.norm1")
        self.qkv = layers.linear(width, 3 * width, out_blocks=3, name=f"{name}.qkv")
        self.out = layers.linear(width, width, name=f"{name}.out")
        self.norm2 = layers.layer_norm(width, name=f"{name}.norm2")
        self.up = layers.linear(width, 4 * width, name=f"{name}.up")
        self.down = layers.linear(4 * width, width, name=f"{name}.down")
        self._drop: nn.Module | None = None
        if dropout:
            columns = grid.columns * axis.space.size
            place = axis.part((grid.rows, columns, width), channels=2, space=1, unit=b)
            self._drop = layers.Dropout(dropout, place)
        if not relative_bias:
            self.bias = None
        else:
            places = (2 * a - 1) * (2 * b - 1)
            self.inputs_per_output = heads
            self._heads = layers.Divided(name, "heads", heads, axis.channels, axis.space)
            whole = torch.empty(places, heads).normal_().mul_(0.02)
            self.hold("bias", whole, ((0, places), self._heads.held))
            at = torch.stack(torch.meshgrid(torch.arange(a), torch.arange(b), indexing="ij"))
            offset = at.flatten(1)[:, :, None] - at.flatten(1)[:, None, :]
            index = (offset[0] + a - 1) * (2 * b - 1) + offset[1] + b - 1
            self.register_buffer("offset", index, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, rows, columns, channels)`` of this rank to the same shape."""
        x = x + self._dropped(self._attend(self.norm1(x)))
        y: Tensor = x + self._dropped(self.down(F.gelu(self.up(self.norm2(x)))))
        return y

    def _dropped(self, x: Tensor) -> Tensor:
        return x if self._drop is None else self._drop(x)

    def _attend(self, x: Tensor) -> Tensor:
        grid = self._grid[0]
        if self.shifted:
            x = self._rolled(x, -self.shift[0], -self.shift[1])
        windows = grid.cut(x)
        projections = self.qkv(windows)
        mask = self._mask(len(windows), projections.dtype)
        x = grid.join(self.out(attend(projections, self.heads, mask)))
        return self._rolled(x, *self.shift) if self.shifted else x

    def _rolled(self, x: Tensor, rows: int, columns: int) -> Tensor:
        over = self.axis.space
        if over.size == 1:
            return torch.roll(x, (rows, columns), (1, 2))
        return layers.rolled(torch.roll(x, rows, 1), -2, columns, over)

    def _mask(self, count: int, dtype: torch.dtype) -> Tensor | None:
        """Mask for the attention of ``count`` windows: boolean, or values to add to the scores."""
        mask = self._grid[0].mask(self.shifted)
        if mask is not None and count > len(mask):
            mask = mask.repeat(count // len(mask), 1, 1, 1)
        if self.bias is None:
            return mask
        own = self._heads.whole_part(self.bias)
        bias = own[self.offset].permute(2, 0, 1)[None].to(dtype)
        if mask is None:
            return bias.expand(count, -1, -1, -1)
        return torch.where(mask, bias, -torch.inf)


class Downsample(nn.Module):
    """Merge four neighbours into one token of twice the width: layer norm, then a linear map.

    ``8 w + 8 w^2`` parameters.
    """

    def __init__(self, grid: WindowGrid, width: int, name: str = "downsample") -> None:
        super().__init__()
        self._grid = [grid]
        self.norm = layers.layer_norm(4 * width, 4, f"{name}.norm")
        self.reduce = layers.linear(4 * width, 2 * width, False, 4, 1, f"{name}.reduce")

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, rows, columns, w)`` to ``(B, rows / 2, columns / 2, 2 w)``."""
        batch, rows, columns, width = x.shape
        x = self._grid[0].without_padding(x).view(batch, rows // 2, 2, columns // 2, 2, width)
        y: Tensor = self.reduce(self.norm(x.transpose(2, 3).flatten(3)))
        return y


class Upsample(nn.Module):
    """Split one token into four of half the width: a linear map, layer norm, a linear map.

    ``8 w^2 + 2 w + w^2`` parameters, with ``w`` the output width.
    """

    def __init__(self, width: int, name: str = "upsample") -> None:
        super().__init__()
        self.expand = layers.linear(2 * width, 4 * width, False, 1, 4, f"{name}.expand")
        self.norm = layers.layer_norm(width, name=f"{name}.norm")
        self.mix = layers.linear(width, width, False, name=f"{name}.mix")

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, rows, columns, 2 w)`` to ``(B, 2 rows, 2 columns, w)``."""
        batch, rows, columns, width = x.shape
        x = self.expand(x).view(batch, rows, columns, 2, 2, width // 2)
        x = x.transpose(2, 3).reshape(batch, 2 * rows, 2 * columns, width // 2)
        y: Tensor = self.mix(self.norm(x))
        return y
