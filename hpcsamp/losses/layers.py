"""Where the KL comes from: by layer."""

from __future__ import annotations

from dataclasses import dataclass

from hpcsamp.methods import Method


@dataclass
class LayerKL:
    """The KL of a layer.

    Attributes
    ----------
    layer
        Its name in the module.
    weights
        How many random weights it has.
    nats
        KL divergence of their posterior from their prior; those of all layers add up to
        ``method.penalty()``.
    """

    layer: str
    weights: int
    nats: float


def kl_by_layer(method: Method) -> list[LayerKL]:
    """The KL of each layer in the order of the module. Not collective: every rank knows it all."""
    layers: dict[str, LayerKL] = {}
    for variable, (size, nats) in method.penalties().items():
        name = variable.rpartition(".")[0] or variable
        layer = layers.setdefault(name, LayerKL(name, 0, 0.0))
        layer.weights += size
        layer.nats += nats
    return list(layers.values())
