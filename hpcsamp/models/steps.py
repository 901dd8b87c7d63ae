"""Networks that read a window of a series step by step: ``lstm``, ``gru`` and ``temporal``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from hpcsamp.models.attention import attend
from hpcsamp.models.inputs import check_input, one_shape


class Steps(nn.Module):
    """Base class: cuts a window into tokens, and maps the last of them to the outputs.

    A window is ``(steps,)`` or ``(rows, steps)``; of forecasts, the last steps are those to
    forecast, whose known covariates are inputs (``hpcsamp ingest series``). A token has all rows of
    ``patch`` steps; zeros at the beginning complete the first one. The last tokens, as many as
    ``outputs`` steps have, are mapped to all outputs by one linear layer.

    Parameters
    ----------
    in_shape
        Shape of an input item.
    outputs
        Number of outputs per item.
    patch
        Steps of a token.
    width
        Features of a token after :meth:`read`.
    dropout
        Dropout rate of these features.

    Raises
    ------
    ValueError
        If items have another shape, a size is below 1, or the rate is outside ``[0, 1)``.
    """

    def __init__(
        self,
        in_shape: Sequence[int] | Mapping[str, Sequence[int]],
        outputs: int,
        patch: int,
        width: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.in_shape = shape = one_shape(in_shape, type(self).__name__.lower())
        if len(shape) not in (1, 2):
            raise ValueError(f"items must be (steps,) or (rows, steps), got {shape}")
        if min(patch, width) < 1:
            raise ValueError(f"patch = {patch} and width = {width} must be at least 1")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout = {dropout} must be a rate, at least 0 and below 1")
        self.patch, self.tokens = patch, -(-shape[-1] // patch)
        self.features = (shape[0] if len(shape) == 2 else 1) * patch
        self.read_out = min(self.tokens, -(-outputs // patch))
        self.drop = nn.Dropout(dropout) if dropout else nn.Identity()
        self.head = nn.Linear(self.read_out * width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, *in_shape)`` to ``(B, outputs)``."""
        check_input(x, self.in_shape, self)
        x = x[:, None] if x.dim() == 2 else x
        x = F.pad(x, (self.tokens * self.patch - x.shape[-1], 0))
        tokens = x.unflatten(-1, (self.tokens, self.patch)).transpose(1, 2).flatten(2)
        last = self.drop(self.read(tokens)[:, -self.read_out :])
        y: Tensor = self.head(last.flatten(1))
        return y

    def read(self, tokens: Tensor) -> Tensor:
        """Map tokens ``(B, tokens, features)`` to ``(B, tokens, width)``."""
        raise NotImplementedError


class LSTM(Steps):
    """Long short-term memory that reads a window in the order of time.

    Parameters
    ----------
    in_shape, outputs, patch, dropout
        See :class:`Steps`.
    width
        Hidden units of each layer.
    layers
        Number of layers.

    Raises
    ------
    ValueError
        See :class:`Steps`.
    """

    cells: type[nn.LSTM] | type[nn.GRU] = nn.LSTM

    def __init__(
        self,
        in_shape: Sequence[int],
        outputs: int,
        width: int = 64,
        layers: int = 1,
        patch: int = 1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(in_shape, outputs, patch, width, dropout)
        self.cell = self.cells(self.features, width, layers, batch_first=True)

    def read(self, tokens: Tensor) -> Tensor:
        """See :meth:`Steps.read`."""
        y: Tensor = self.cell(tokens)[0]
        return y


class GRU(LSTM):
    """Gated recurrent units that read a window in the order of time.

    Parameters
    ----------
    in_shape, outputs, width, layers, patch, dropout
        See :class:`LSTM`.

    Raises
    ------
    ValueError
        See :class:`Steps`.
    """

    cells = nn.GRU


class Temporal(Steps):
    """Transformer over the steps of a window, with patches of steps as tokens.

    Source: Nie et al. 2023 for patches, Dosovitskiy et al. 2021 for the pre-norm layers.

    Parameters
    ----------
    in_shape, outputs, patch, dropout
        See :class:`Steps`.
    width
        Width of the embedding; divisible by ``heads``.
    heads, layers, hidden
        Attention heads, layers, and hidden units of each layer's perceptron.

    Raises
    ------
    ValueError
        See :class:`Steps`, and if the heads do not divide the width.
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        outputs: int,
        width: int = 48,
        heads: int = 3,
        layers: int = 2,
        hidden: int = 96,
        patch: int = 8,
        dropout: float = 0.0,
    ) -> None:
        if width % heads:
            raise ValueError(f"heads = {heads} do not divide width = {width}")
        super().__init__(in_shape, outputs, patch, width, dropout)
        self.embed = nn.Linear(self.features, width)
        self.positions = nn.Parameter(torch.empty(1, self.tokens, width).normal_().mul_(0.02))
        self.layers = nn.Sequential(
            *(TemporalLayer(width, heads, hidden, dropout) for _ in range(layers))
        )
        self.norm = nn.LayerNorm(width)

    def read(self, tokens: Tensor) -> Tensor:
        """See :meth:`Steps.read`."""
        y: Tensor = self.norm(self.layers(self.embed(tokens) + self.positions))
        return y


class TemporalLayer(nn.Module):
    """Pre-norm self-attention over all steps, then a perceptron, each with a residual.

    Parameters
    ----------
    width, heads, hidden, dropout
        See :class:`Temporal`.
    """

    def __init__(self, width: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.drop = nn.Dropout(dropout) if dropout else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, tokens, width)`` to the same shape."""
        x = x + self.drop(self.out(attend(self.qkv(self.norm1(x)), self.heads)))
        y: Tensor = x + self.drop(self.down(F.gelu(self.up(self.norm2(x)))))
        return y
