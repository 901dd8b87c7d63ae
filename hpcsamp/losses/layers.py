"""The KL divergence of each layer."""

from __future__ import annotations

from dataclasses import dataclass

from hpcsamp.methods import Method


@dataclass
class LayerKL:
    """The KL divergence of one layer.

    Attributes
    ----------
    layer
        Name of the layer in the module.
    weights
        Number of its random weights.
    nats
        KL divergence of the posterior of its weights from their prior; the values of all layers
        add up to ``method.penalty()``.
    """

    layer: str
    weights: int
    nats: float


def kl_by_layer(method: Method) -> list[LayerKL]:
    """Return the KL of each layer in the order of the module. Not collective."""
    layers: dict[str, LayerKL] = {}
    for variable, (size, nats) in method.penalties().items():
        name = variable.rpartition(".")[0] or variable
        layer = layers.setdefault(name, LayerKL(name, 0, 0.0))
        layer.weights += size
        layer.nats += nats
    return list(layers.values())
