"""Replace the last layer of a network by one with the outputs that are asked for."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from hpcsamp.errors import UsageError
from hpcsamp.layers import Layer
from hpcsamp.spelling import suggest

CONVOLUTIONS: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv1d: nn.LazyConv1d, nn.Conv2d: nn.LazyConv2d, nn.Conv3d: nn.LazyConv3d,
}  # fmt: skip
"""Kinds of convolutions, and those whose input channels the first batch says."""


def replace(network: nn.Module, name: str, outputs: int) -> str:
    """Put a fresh layer with ``outputs`` outputs in the place of one.

    Its initial weights are torch's usual ones, drawn from the global generator.

    Parameters
    ----------
    network
        Its layer is replaced in place.
    name
        Of a linear layer or a convolution, or of a block, of which the last such layer is meant.
    outputs
        Features or channels of the new layer.

    Returns
    -------
    str
        Name of the layer that was replaced.

    Raises
    ------
    UsageError
        If there is no such layer.
    """
    of = type(network).__name__
    known = dict(network.named_modules())
    if name not in known:
        near = suggest(name, known) or f"; its last linear layers are {listed(network)}"
        raise UsageError(f"model.head = {name!r}: {of} has no such layer{near}")
    inner = [n for n in layers(network) if n == name or n.startswith(f"{name}.") or not name]
    if not inner:
        kind = type(known[name]).__name__
        if isinstance(known[name], Layer) and known[name].axis.size > 1:
            raise UsageError(
                f"model.head = {name!r} is a {kind} in parts on {known[name].axis.size} model "
                f"ranks, which cannot be replaced; leave model.head out, or set parallel.model = 1"
            )
        raise UsageError(
            f"model.head = {name!r} is a {kind}, neither a linear layer or convolution nor a block "
            f"with one; the last linear layers of {of} are {listed(network)}"
        )
    found = inner[-1]
    if not found:
        raise UsageError(f"model.head = {name!r}: {of} is a single layer; name another model")
    holder, _, key = found.rpartition(".")
    setattr(network.get_submodule(holder), key, _like(known[found], outputs))
    return found


def layers(network: nn.Module) -> list[str]:
    """Names of the linear layers and convolutions, in the order of the module."""
    kinds: tuple[type[nn.Module], ...] = (nn.Linear, *CONVOLUTIONS)
    return [name for name, part in network.named_modules() if isinstance(part, kinds)]


def listed(network: nn.Module, most: int = 3) -> str:
    """The last linear layers with their features, for messages."""
    known = dict(network.named_modules())
    shown = [
        f"{name or type(network).__name__} ({_sizes(known[name])})" for name in layers(network)
    ]
    return ", ".join(shown[-most:]) or "none"


def _sizes(layer: Any) -> str:
    if isinstance(layer, nn.Linear):
        return f"{layer.in_features} -> {layer.out_features}"
    return f"{layer.in_channels} -> {layer.out_channels} channels"


def _like(layer: Any, outputs: int) -> nn.Module:
    """A fresh layer with other outputs, on the same device and of the same type."""
    weight = layer.weight
    placed: dict[str, Any] = {"device": weight.device, "dtype": weight.dtype}
    bias = layer.bias is not None
    if isinstance(layer, nn.LazyLinear):
        return nn.LazyLinear(outputs, bias, **placed)
    if isinstance(layer, nn.Linear):
        return nn.Linear(layer.in_features, outputs, bias, **placed)
    named: dict[str, Any] = {
        "out_channels": outputs, "kernel_size": layer.kernel_size, "stride": layer.stride,
        "padding": layer.padding, "dilation": layer.dilation, "bias": bias,
        "padding_mode": layer.padding_mode, **placed,
    }  # fmt: skip
    for kind, lazy in CONVOLUTIONS.items():
        if isinstance(layer, lazy):
            return lazy(**named)
        if isinstance(layer, kind):
            return kind(layer.in_channels, **named)
    raise AssertionError(type(layer))


def features(network: nn.Module, outputs: torch.Size) -> list[str]:
    """Linear layers whose number of features is that of the outputs: perhaps the last ones."""
    known = dict(network.named_modules())
    found = []
    for name in layers(network):
        layer: Any = known[name]
        size = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
        if name and size in outputs[1:]:
            found.append(name)
    return found
