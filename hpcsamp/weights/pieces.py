"""Of a network in parts over model ranks: where a rank's numbers lie among those of the whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor, nn

from hpcsamp.grid.parts import Part


class Pieces(Protocol):
    """Where this rank's numbers lie among those of the whole network, on the last axes.

    A :class:`~hpcsamp.weights.layout.Layout` for flat tensors, a
    :class:`~hpcsamp.grid.parts.Part` for others.
    """

    def whole_of(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Shape of the whole of which this rank has one of the given shape."""

    def local_of(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Shape of what this rank has of a whole of the given shape."""

    def put(self, whole: Tensor, part: Tensor, /) -> None:
        """Write this rank's numbers at their places."""

    def cut(self, whole: Tensor) -> Tensor:
        """This rank's numbers."""


def parts_in(module: nn.Module) -> dict[str, Part]:
    """Which parts of parameters a module holds by name, where it is in parts over model ranks.

    Layers in parts list theirs in an attribute ``parts``.
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
