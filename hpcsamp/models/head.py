"""Replace the last layer of a network by one with the required number of outputs."""

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
"""Classes of convolutions; lazy ones take their number of input channels from the first batch."""


def replace(network: nn.Module, name: str, outputs: int) -> str:
    """Replace a layer by a new one with ``outputs`` outputs.

    Its initial weights are torch's defaults, drawn from the global generator.

    Parameters
    ----------
    network
        The network, which is changed in place.
    name
        Name of a linear layer or a convolution, or of a block, whose last such layer is replaced.
    outputs
        Number of features or channels of the new layer.

    Returns
    -------
    str
        Name of the replaced layer.

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
                f"model.head = {name!r} is a {kind} that is split over {known[name].axis.size} "
                f"model ranks and cannot be replaced; leave model.head out, or set "
                f"parallel.model = 1"
            )
        raise UsageError(
            f"model.head = {name!r} is a {kind}, neither a linear layer or convolution nor a block "
            f"with one; the last linear layers of {of} are {listed(network)}"
        )
    found = inner[-1]
    if not found:
        raise UsageError(
            f"model.head = {name!r}: {of} is a single layer, not a network with a last layer that "
            f"can be replaced; choose another model"
        )
    holder, _, key = found.rpartition(".")
    setattr(network.get_submodule(holder), key, _like(known[found], outputs))
    return found


def layers(network: nn.Module) -> list[str]:
    """Names of the linear layers and convolutions, in registration order."""
    kinds: tuple[type[nn.Module], ...] = (nn.Linear, *CONVOLUTIONS)
    return [name for name, part in network.named_modules() if isinstance(part, kinds)]


def listed(network: nn.Module, most: int = 3) -> str:
    """The last linear layers with their numbers of features, for messages."""
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
    """Return a new layer with other outputs, of the same type and on the same device."""
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
    """Linear layers with as many features as there are outputs, which may be the last layers."""
    known = dict(network.named_modules())
    found = []
    for name in layers(network):
        layer: Any = known[name]
        size = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
        if name and size in outputs[1:]:
            found.append(name)
    return found
