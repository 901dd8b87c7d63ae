"""Attention within windows on a latitude-longitude grid: periodic in longitude, not in latitude.

Tokens are ``(B, rows, columns, width)``. A shifted block rolls them, by half a window both ways.
The roll wraps: eastwards that is what the Earth does, so nothing is masked there; over the poles
it is not, so a mask keeps tokens of the first and of the last rows apart. Rows beyond the last
latitude (the grid is padded to whole windows) attend to nothing but each other.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from hpcsamp.models.attention import attend


def row_mask(rows: int, real: int, window: tuple[int, int], shift: int) -> Tensor | None:
    """Which tokens of a window may attend to each other.

    Parameters
    ----------
    rows
        Rows of the grid, a multiple of ``window[0]``.
    real
        How many of them, from the first, are latitudes; the others are padding.
    window
        Rows and columns of a window.
    shift
        Rows by which the grid was rolled up.

    Returns
    -------
    Tensor or None
        Bool ``(rows / window[0], T, T)``, T tokens a window; None if all may.
    """
    if shift == 0 and real == rows:
        return None
    source = (torch.arange(rows) + shift) % rows
    region = 2 * (torch.arange(rows) >= rows - shift).long() + (source >= real).long()
    tokens = region.view(-1, window[0], 1).expand(-1, -1, window[1]).flatten(1)
    return tokens[:, :, None] == tokens[:, None, :]


class Grid(nn.Module):
    """The grid of a stage: its windows and masks, the same for all blocks of the stage.

    Parameters
    ----------
    rows, columns
        Multiples of the window.
    real
        Rows that are not padding.
    window
        Rows and columns of a window.
    """

    plain: Tensor | None
    shifted: Tensor | None
    keep: Tensor

    def __init__(self, rows: int, columns: int, real: int, window: tuple[int, int]) -> None:
        super().__init__()
        self.rows, self.columns, self.real, self.window = rows, columns, real, window
        per_row = columns // window[1]
        for name, shift in (("plain", 0), ("shifted", window[0] // 2)):
            mask = row_mask(rows, real, window, shift)
            if mask is not None:
                mask = mask.repeat_interleave(per_row, dim=0)[:, None]  # (windows, 1, T, T)
            self.register_buffer(name, mask, persistent=False)
        keep = (torch.arange(rows) < real).view(1, rows, 1, 1)
        self.register_buffer("keep", keep, persistent=False)

    def mask(self, shifted: bool) -> Tensor | None:
        """``(windows, 1, T, T)``, or None if every token of a window sees every other."""
        return self.shifted if shifted else self.plain

    def cut(self, x: Tensor) -> Tensor:
        """``(B, rows, columns, n)`` to windows ``(B * windows, T, n)``, row by row of windows."""
        (a, b), n = self.window, x.shape[-1]
        x = x.view(-1, self.rows // a, a, self.columns // b, b, n)
        return x.transpose(2, 3).reshape(-1, a * b, n)

    def join(self, x: Tensor) -> Tensor:
        """The inverse of :meth:`cut`."""
        (a, b), n = self.window, x.shape[-1]
        x = x.view(-1, self.rows // a, self.columns // b, a, b, n)
        return x.transpose(2, 3).reshape(-1, self.rows, self.columns, n)

    def without_padding(self, x: Tensor) -> Tensor:
        """Tokens with zeros in the padding rows."""
        return x if self.real == self.rows else torch.where(self.keep, x, 0)


class Block(nn.Module):
    """Pre-norm transformer block whose attention stays within windows (Liu et al. 2021).

    ``12 w^2 + 13 w`` parameters for a width ``w``: ``3 w^2 + 3 w`` of queries, keys and values,
    ``w^2 + w`` of the projection, ``8 w^2 + 5 w`` of the perceptron of ``4 w`` units, ``4 w`` of
    two layer norms. With ``relative_bias`` and windows of ``a x b`` tokens
    ``(2 a - 1) (2 b - 1) heads`` more.

    Parameters
    ----------
    grid
        Of the stage.
    width, heads
        Of the embedding; heads divide the width.
    shifted
        Whether windows are shifted by half of their size.
    relative_bias
        Learn a number for each head and each offset of two tokens within a window.
    """

    offset: Tensor

    def __init__(
        self, grid: Grid, width: int, heads: int, shifted: bool, relative_bias: bool
    ) -> None:
        super().__init__()
        self._grid = [grid]  # in a list: the stage registers it, once
        self.heads, self.shifted = heads, shifted
        a, b = grid.window
        self.shift = (a // 2, b // 2) if shifted else (0, 0)
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)
        self.bias: nn.Parameter | None = None
        if relative_bias:
            places = (2 * a - 1) * (2 * b - 1)
            self.bias = nn.Parameter(torch.empty(places, heads).normal_().mul_(0.02))
            at = torch.stack(torch.meshgrid(torch.arange(a), torch.arange(b), indexing="ij"))
            offset = at.flatten(1)[:, :, None] - at.flatten(1)[:, None, :]
            index = (offset[0] + a - 1) * (2 * b - 1) + offset[1] + b - 1
            self.register_buffer("offset", index, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, rows, columns, width)`` to the same."""
        x = x + self._attend(self.norm1(x))
        y: Tensor = x + self.down(F.gelu(self.up(self.norm2(x))))
        return y

    def _attend(self, x: Tensor) -> Tensor:
        grid = self._grid[0]
        if self.shifted:
            x = torch.roll(x, (-self.shift[0], -self.shift[1]), (1, 2))
        windows = grid.cut(x)
        projections = self.qkv(windows)
        mask = self._mask(len(windows), projections.dtype)
        x = grid.join(self.out(attend(projections, self.heads, mask)))
        return torch.roll(x, self.shift, (1, 2)) if self.shifted else x

    def _mask(self, count: int, dtype: torch.dtype) -> Tensor | None:
        """What attention gets for ``count`` windows: bool, or numbers to add."""
        mask = self._grid[0].mask(self.shifted)
        if mask is not None and count > len(mask):
            mask = mask.repeat(count // len(mask), 1, 1, 1)
        if self.bias is None:
            return mask
        bias = self.bias[self.offset].permute(2, 0, 1)[None].to(dtype)
        if mask is None:
            return bias.expand(count, -1, -1, -1)
        return torch.where(mask, bias, -torch.inf)


class Downsample(nn.Module):
    """Four neighbours become one token of twice the width: layer norm, then a linear map.

    ``8 w + 8 w^2`` parameters.
    """

    def __init__(self, grid: Grid, width: int) -> None:
        super().__init__()
        self._grid = [grid]
        self.norm = nn.LayerNorm(4 * width)
        self.reduce = nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, rows, columns, w)`` to ``(B, rows / 2, columns / 2, 2 w)``."""
        batch, rows, columns, width = x.shape
        x = self._grid[0].without_padding(x).view(batch, rows // 2, 2, columns // 2, 2, width)
        y: Tensor = self.reduce(self.norm(x.transpose(2, 3).flatten(3)))
        return y


class Upsample(nn.Module):
    """One token becomes four of half the width: a linear map, layer norm, a linear map.

    ``8 w^2 + 2 w + w^2`` parameters, ``w`` the width that comes out.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.expand = nn.Linear(2 * width, 4 * width, bias=False)
        self.norm = nn.LayerNorm(width)
        self.mix = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, rows, columns, 2 w)`` to ``(B, 2 rows, 2 columns, w)``."""
        batch, rows, columns, width = x.shape
        x = self.expand(x).view(batch, rows, columns, 2, 2, width // 2)
        x = x.transpose(2, 3).reshape(batch, 2 * rows, 2 * columns, width // 2)
        y: Tensor = self.mix(self.norm(x))
        return y
