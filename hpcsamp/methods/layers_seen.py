"""Inputs and outputs of linear and convolution layers in a forward pass.

The gradient of an output in the weights of a layer is ``sum_t g_t a_t'`` over positions t, of the
gradient g at the layer's outputs and its inputs a: one backward pass gives it for each item.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

Recorded = dict[str, tuple[Tensor, Tensor]]
"""Inputs and outputs of layers by name."""


@contextmanager
def recording(layers: Mapping[str, nn.Module]) -> Iterator[tuple[Recorded, dict[str, int]]]:
    """Record inputs and outputs of layers, in the order in which they are called.

    Outputs have a gradient if gradients are enabled, whether or not a parameter needs one.

    Returns
    -------
    found, calls
        Inputs and outputs of the last call, and the number of calls, of each layer.
    """
    found: Recorded = {}
    calls: dict[str, int] = {}

    def hook(name: str) -> Callable[..., Tensor]:
        def record(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            found.pop(name, None)
            own = output.clone().requires_grad_(torch.is_grad_enabled())
            found[name] = inputs[0].detach().clone(), own
            calls[name] = calls.get(name, 0) + 1
            return own.clone()  # what follows may change it in place

        return record

    handles = [of.register_forward_hook(hook(name)) for name, of in layers.items()]
    try:
        yield found, calls
    finally:
        for handle in handles:
            handle.remove()


def inputs_of(layer: Any, x: Tensor) -> Tensor:
    """Inputs of a layer as ``(B, T, i)``: T positions, a column of ones for the bias."""
    if isinstance(layer, nn.Conv2d):
        assert not isinstance(layer.padding, str)
        a = functional.unfold(
            x, layer.kernel_size, layer.dilation, layer.padding, layer.stride
        ).transpose(1, 2)
    else:
        a = x.reshape(len(x), -1, x.shape[-1])
    return a if layer.bias is None else torch.cat([a, a.new_ones(*a.shape[:2], 1)], 2)


def outputs_of(layer: Any, g: Tensor) -> Tensor:
    """Gradients at the outputs of a layer as ``(B, T, o)``."""
    if isinstance(layer, nn.Conv2d):
        return g.flatten(2).transpose(1, 2)
    return g.reshape(len(g), -1, g.shape[-1])
