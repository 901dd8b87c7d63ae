"""Networks that are split over model ranks, and the bytes that their layers should send."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from hpcsamp import layers
from hpcsamp.models import Mixer

IN, OUT = (8, 6, 48), (9, 6, 48)
ITEM = 8  # bytes of float64


def mixer(**arguments):
    """A small mixer in float64, the same whole network on any ranks."""
    torch.manual_seed(1)
    options = {"strip": 2, "width": 24, "blocks": 2} | arguments
    network = Mixer(IN, OUT[0] * OUT[1] * OUT[2], **options).double()
    return network


def numbers(*shape, seed=0):
    """Random numbers, the same on all ranks."""
    generator = torch.Generator().manual_seed(seed + 100)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def plain(network, x):
    """A sequential mixer of torch's own layers, with the same weights."""
    b, fields, lats, lons = x.shape
    strip, width = network.embed.strip, network.embed.map.weight.shape[1]
    conv = nn.Conv2d(fields, width, (1, strip), stride=(1, strip)).double()
    kernel = network.embed.map.weight.T.reshape(width, fields, 1, strip)
    conv = torch.func.functional_call(conv, {"weight": kernel, "bias": network.embed.map.bias}, x)
    embedded = conv.permute(0, 3, 2, 1).flatten(1, 2)  # strips, then latitudes
    tokens = embedded
    for block in network.blocks:
        n = F.layer_norm(tokens, (width,), block.norm1.weight, block.norm1.bias)
        up, down = block.tokens.up, block.tokens.down
        h = F.gelu(torch.einsum("ht,btc->bhc", up.weight, n) + up.bias[:, None])
        tokens = tokens + torch.einsum("ht,bhc->btc", down.weight, h) + down.bias[:, None]
        n = F.layer_norm(tokens, (width,), block.norm2.weight, block.norm2.bias)
        h = F.gelu(F.linear(n, block.up.weight.T, block.up.bias))
        tokens = tokens + F.linear(h, block.down.weight.T, block.down.bias)
    n = F.layer_norm(tokens, (width,), network.norm.weight, network.norm.bias)
    weight = network.expand.map.weight.view(width, 2, -1)
    y = n @ weight[:, 0] + embedded @ weight[:, 1]
    y = y.view(b, lons // strip, lats, OUT[0], strip).permute(0, 3, 2, 1, 4).reshape(b, *OUT)
    y = y + network.expand.bias[:, None, None]
    both = torch.cat([x, y], 1)
    last = network.last
    kernel = torch.cat([last.weight0, last.weight1]).T[..., None, None]
    return F.conv2d(both, kernel, last.bias)


def sent(layer, rows):
    """``(exchanges, bytes)`` of a layer forward and backward, by the arithmetic of its docstring.

    ``rows``: this rank's tokens of all items, or of a :class:`TokenMLP` the items.
    """
    axis = next(m for m in layer.modules() if isinstance(m, layers.Layer)).axis
    r, g = axis.channels.size, axis.space.size
    if isinstance(layer, layers.Linear):
        own_in, held = layer._in.own, layer._in.held
        own_out, bias = (b - a for a, b in (layer._out.own, layer._out.held))
        own_in, held = own_in[1] - own_in[0], held[1] - held[0]
        outputs = layer._out.length
        forward = rows * (outputs - own_out) + (g - 1) * (held * outputs + bias)
        backward = (r - 1) * rows * own_out + (g - 1) * held * outputs
        backward += (own_in - held) * outputs + own_out - bias
        return 2 * (r > 1) + 5 * (g > 1), forward + backward
    if isinstance(layer, layers.LayerNorm):
        own, held = (b - a for a, b in (layer._divided.own, layer._divided.held))
        return 2 * (r > 1) + 4 * (g > 1), 4 * rows * (r - 1) + 2 * (g - 1) * held + 2 * (own - held)
    tokens, share = (b - a for a, b in (layer.up._tokens.own, layer.up._tokens.held))
    part, hidden = (b - a for a, b in (layer.up._hidden.own, layer.up._hidden.held))
    lengths = layer._channels.lengths
    own, every = rows * lengths[axis.channels.rank], rows * sum(lengths)
    forward = tokens * own * (r - 1) + (part - hidden) * every
    forward += hidden * every * (g - 1) + tokens * (every - own)
    gathered = tokens * own * (r - 1) + hidden * every * (g - 1)
    bias = share * (r - 1) + tokens - share
    return 7 * (r > 1) + 5 * (g > 1), 2 * forward + gathered + bias
