"""A mixer of tokens and channels for weather, for one rank or split over model ranks."""

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


class Mixer(FieldNetwork):
    """Weather mixer on a latitude-longitude grid: WeatherMixer, as trained by Jigsaw.

    Each strip of longitudes at each latitude becomes a token of ``width`` channels. Each block
    first mixes the tokens of every channel and then the channels of every token, by perceptrons
    with one hidden layer after a layer norm. A transposed convolution maps normalised tokens and
    embedding together to fields; these and the inputs are mapped to the outputs at each point.

    Parameters at full size, for 72 x 720 x 1440 in (69 variables and 3 masks) and
    69 x 720 x 1440 out, ``C = 4320``, ``T = 720 * 1440 / 60 = 17280`` tokens::

        strips to tokens     72 * 60 * C + C                       18,666,720
        3 token mixers       3 * (2 * T * T / 2 + T / 2 + T)      895,872,960
        3 channel mixers     3 * (2 * C * C + 2 * C)              112,000,320
        7 layer norms        7 * 2 * C                                 60,480
        tokens to strips     2 * C * 69 * 60 + 69                  35,769,669
        fields to outputs    (72 + 69) * 69 + 69                        9,798
        all                                                     1,062,379,947

    60,480 of them belong to layer norms and stay deterministic, so mean-field VI trains
    2 * 1,062,319,467 + 60,480 = 2,124,699,414 parameters.

    On M model ranks (:func:`hpcsamp.layers.along`) each rank holds 1/M of the parameters and a part
    of the fields and longitudes of an item, see :meth:`input_part` and :meth:`output_part`. M = 2
    splits the channels and fields, M = 4 also halves the longitudes. Shares of fields may be
    uneven; the numbers of channels and strips must be divisible.

    On M ranks of the channel axis, each with ``c = C / M`` channels, ``w`` hidden channels and
    ``o`` of the output fields, a pass of N items, forward and backward, has ``15 b + 8`` exchanges
    for b blocks, in which a rank sends the following numbers of values::

        strips to tokens     (M - 1) 2 N T c
        b token mixers       b (M - 1) (5 N T c + 2 T / M)
        b channel mixers     b (M - 1) 2 N T (w + c)
        2 b + 1 layer norms  (2 b + 1) (M - 1) 4 N T
        tokens to strips     N P (F - o + (M - 1) o)        P points, F output fields
        fields to outputs    N P (F - o + (M - 1) o)

    Source: Kieckhefen et al. 2025 (Jigsaw, arXiv 2507.05753). Its layer norms act on the part of
    each rank, these on all channels; its last layer takes no masks (207 weights less).

    Parameters
    ----------
    in_shape
        ``(fields, latitudes, longitudes)`` of an item.
    outputs
        Number of output values per item: whole fields of ``latitudes x longitudes``.
    strip
        Number of longitudes of a token; divides that of the grid.
    width
        ``C``, the channels of a token.
    blocks
        Number of blocks.
    tokens, channels
        Hidden rows of the two perceptrons, as a multiple of the tokens and of ``width``.
    dropout
        Dropout rate of the outputs of the perceptrons.
    checkpoint
        Keep only the input of each block and recompute the block in the backward pass: much less
        memory for a third more work.

    Raises
    ------
    ValueError
        If strips do not divide, or outputs are not fields; the message contains both numbers.
    UsageError
        If channels and strips cannot be split over the model ranks.
    """

    name = "mixer"

    def __init__(
        self,
        in_shape: Sequence[int],
        outputs: int,
        strip: int = 60,
        width: int = 4320,
        blocks: int = 3,
        tokens: float = 0.5,
        channels: float = 1.0,
        dropout: float = 0.0,
        checkpoint: Annotated[bool, NOTHING] = False,
    ) -> None:
        super().__init__()
        in_shape = one_shape(in_shape, "mixer")
        fields, latitudes, longitudes = _checked(in_shape, outputs, strip, width, blocks)
        count = latitudes * longitudes // strip
        rows, wide = (
            _hidden(n, f, of)
            for n, f, of in ((count, tokens, "tokens"), (width, channels, "channels"))
        )
        self.in_shape = (fields, latitudes, longitudes)
        self.out_shape = (outputs // (latitudes * longitudes), latitudes, longitudes)
        self.checkpoint = checkpoint
        self.axis = layers.current().fitted(
            "mixer",
            {"channels": width, "hidden channels": wide},
            {"strips": longitudes // strip},
            min(fields, self.out_shape[0]),
        )
        with layers.along(self.axis):
            self.embed = layers.StripEmbedding(fields, width, strip, "mixer.embed")
            self.blocks = nn.ModuleList(
                MixerBlock(count, rows, width, wide, latitudes, dropout, f"mixer.blocks.{i}")
                for i in range(blocks)
            )
            self.norm = layers.LayerNorm(width, name="mixer.norm")
            self.expand = layers.StripExpansion(
                2 * width, self.out_shape[0], strip, latitudes, "mixer.expand"
            )
            self.last = layers.Joined((fields, self.out_shape[0]), self.out_shape[0], "mixer.last")
        self._local = self.input_part(self.in_shape).local

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, fields, latitudes, longitudes)`` to output fields, both this rank's part."""
        check_input(x, self._local, self)
        keep = not (self.checkpoint and torch.is_grad_enabled())
        embedded = tokens = self.embed(x)
        for block in self.blocks:
            tokens = block(tokens) if keep else recomputed(block, tokens)
        # channel j of the tokens is next to channel j of the embedding, so a rank's are contiguous
        both = torch.stack([self.norm(tokens), embedded], dim=-1).flatten(-2)
        y: Tensor = self.last(x.movedim(1, -1), self.expand(both).movedim(1, -1))
        return y.movedim(-1, 1)


class MixerBlock(nn.Module):
    """Mix tokens, then channels: ``2 T r + r + T + 2 C w + w + C + 4 C`` parameters.

    Parameters
    ----------
    tokens, rows
        ``T``, and hidden rows ``r`` of their perceptron.
    channels, wide
        ``C``, and hidden channels ``w`` of their perceptron.
    unit
        Number of neighbouring tokens that stay on one rank.
    dropout
        Dropout rate.
    name
        Name of the layer, for messages.
    """

    def __init__(
        self,
        tokens: int,
        rows: int,
        channels: int,
        wide: int,
        unit: int,
        dropout: float,
        name: str,
    ) -> None:
        super().__init__()
        self.norm1 = layers.LayerNorm(channels, name=f"{name}.norm1")
        self.tokens = layers.TokenMLP(tokens, rows, channels, unit, name=f"{name}.tokens")
        self.norm2 = layers.LayerNorm(channels, name=f"{name}.norm2")
        self.up = layers.Linear(channels, wide, name=f"{name}.up")
        self.down = layers.Linear(wide, channels, name=f"{name}.down")
        own = layers.current().part((tokens, channels), channels=1, space=0, unit=unit)
        self.dropout = layers.Dropout(dropout, own) if dropout else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, tokens, channels)`` of this rank to the same shape."""
        x = x + self.dropout(self.tokens(self.norm1(x)))
        y: Tensor = x + self.dropout(self.down(F.gelu(self.up(self.norm2(x)))))
        return y


def _hidden(count: int, multiple: float, of: str) -> int:
    found = round(count * multiple)
    if not multiple > 0 or found < 1:
        raise ValueError(
            f"{of} = {multiple} must be positive and give at least one hidden row: {count} times "
            f"it, rounded"
        )
    return found


def _checked(
    in_shape: tuple[int, ...], outputs: int, strip: int, width: int, blocks: int
) -> tuple[int, int, int]:
    if len(in_shape) != 3:
        raise ValueError(
            f"items must be (fields, latitudes, longitudes), got {len(in_shape)} axes: {in_shape}"
        )
    for name, value, least in (("strip", strip, 1), ("width", width, 1), ("blocks", blocks, 0)):
        if value < least:
            raise ValueError(f"{name} = {value}: at least {least} is needed")
    fields, latitudes, longitudes = in_shape
    if longitudes % strip:
        raise ValueError(f"strip = {strip} does not divide {longitudes} longitudes")
    if outputs < 1 or outputs % (latitudes * longitudes):
        raise ValueError(
            f"{outputs} outputs are not fields of {latitudes} x {longitudes} = "
            f"{latitudes * longitudes} values"
        )
    return fields, latitudes, longitudes
