"""Local reparameterisation: noise on the outputs of a layer instead of on its weights.

    y_b = x_b mean_W + mean_b + sqrt(x_b^2 std_W^2 + std_b^2) * eps_b,     eps_b ~ N(0, 1)

(Kingma, Salimans and Welling 2015, equation 6.) For a single item, the outputs have the same
distribution as with weight draws; between items the noise is independent, so the variance of a
batch's gradient decreases with the batch size.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hpcsamp.methods.item_noise import Draw, ItemNoise, NoisyLayer
from hpcsamp.streams.places import place_normals


class LocalReparameterisation(ItemNoise):
    """Mean-field VI with noise on the outputs of each layer, drawn for each item.

    It costs a second product per layer. If an item has several positions (tokens, pixels), each has
    its own noise: its distribution is that of weight draws, but the correlation between positions
    that share weights is lost, and with it the exact expectation of the gradient
    (:class:`~hpcsamp.methods.flipout.Flipout` preserves both). For the parameters see
    :class:`~hpcsamp.methods.mean_field.MeanField`; for the layers with noise,
    :class:`~hpcsamp.methods.item_noise.ItemNoise`.
    """

    weight_noise = False

    def perturbation(self, layer: NoisyLayer, draw: Draw, x: Tensor, y: Tensor) -> Tensor:
        """``sqrt(layer(x^2; std^2)) * eps``, see :meth:`ItemNoise.perturbation`."""
        bias = None if layer.bias is None else draw.std[layer.bias].square()
        variance = layer.apply(x.square(), draw.std[layer.weight].square(), bias)
        # an item whose inputs are all 0 has no variance, and the root is not differentiable at 0
        std = variance.clamp_min(torch.finfo(variance.dtype).tiny).sqrt()
        kind = torch.float64 if y.dtype == torch.float64 else torch.float32
        count = y.numel() // len(draw.index)
        noise = place_normals(draw.stream(layer), draw.index, count, kind).reshape(y.shape)
        return std * (noise * draw.sign).to(y.dtype)
