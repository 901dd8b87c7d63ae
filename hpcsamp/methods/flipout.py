"""Flipout: the weight perturbation of a sample gets random signs for each item.

    W_b = mean + (std * eps) o (r_b s_b^T),    r_b, s_b = +-1 drawn for (seed, step, sample, item)

(Wen et al. 2018, section 3.1.) The weights of each item have the distribution of the posterior, and
those of different items are uncorrelated, so the variance of a batch's gradient decreases with the
batch size. All positions of an item (tokens, pixels) share its signs, and thus one set of weights.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hpcsamp.methods.item_noise import Draw, ItemNoise, NoisyLayer, spread
from hpcsamp.streams.places import place_bits


class Flipout(ItemNoise):
    """Mean-field VI in which each item sees the weights of a sample with its own random signs.

    It costs a second product per layer. For the parameters see
    :class:`~hpcsamp.methods.mean_field.MeanField`; for the layers that get noise per item,
    :class:`~hpcsamp.methods.item_noise.ItemNoise`.
    """

    def perturbation(self, layer: NoisyLayer, draw: Draw, x: Tensor, y: Tensor) -> Tensor:
        """``r o layer(s o x; std * eps)``, see :meth:`ItemNoise.perturbation`."""
        ins, outs = x.shape[layer.axis], y.shape[layer.axis]
        signs = random_signs(draw.stream(layer), draw.index, ins + outs, x.dtype)
        weight = draw.std[layer.weight] * draw.noise(layer.weight)
        bias = None
        if layer.bias is not None:
            bias = draw.std[layer.bias] * draw.noise(layer.bias)
        moved = layer.apply(x * spread(signs[:, :ins], x, layer.axis), weight, bias)
        return moved * spread(signs[:, ins:], y, layer.axis)


def random_signs(key: Tensor, places: Tensor, count: int, dtype: torch.dtype) -> Tensor:
    """Return ``(B, count)`` signs, -1 or 1, drawn from a stream at one bit each."""
    bits = place_bits(key, places, -(-count // 64))
    single = (bits[..., None] >> torch.arange(64, device=bits.device)) & 1
    return single.flatten(-2)[..., :count].to(dtype) * 2 - 1
