"""Positions of a model rank's values within tensors of the whole network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor, nn

from hpcsamp.grid.parts import Part


class Pieces(Protocol):
    """Positions of this rank's values within a tensor of the whole network, on its last axes.

    A :class:`~hpcsamp.weights.layout.Layout` for flat tensors, a
    :class:`~hpcsamp.grid.parts.Part` for others.
    """

    def whole_of(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Shape of the whole tensor, given the shape of this rank's part."""

    def local_of(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Shape of this rank's part, given the shape of the whole tensor."""

    def put(self, whole: Tensor, part: Tensor, /) -> None:
        """Write this rank's values to their positions in the whole tensor."""

    def cut(self, whole: Tensor) -> Tensor:
        """Return this rank's values of the whole tensor."""


def parts_in(module: nn.Module) -> dict[str, Part]:
    """Return the parts of parameters that a split module holds, by parameter name.

    Layers list their own parts in an attribute ``parts``.
    """
    return {
        f"{path}.{name}" if path else name: found
        for path, layer in module.named_modules()
        for name, found in _parts(layer).items()
    }


def _parts(layer: nn.Module) -> dict[str, Part]:
    own = getattr(layer, "parts", None)
    own = own if isinstance(own, dict) else {}
    return {name: found for name, found in own.items() if isinstance(found, Part)}
