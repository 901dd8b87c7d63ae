"""Which layer of a module is being evaluated, for messages that name it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import nn


class Layer(NamedTuple):
    """A layer of a module.

    Attributes
    ----------
    name
        Its name in the module, empty for the module itself.
    kind
        Its class.
    """

    name: str
    kind: str

    def __str__(self) -> str:
        return f"{self.name}, a {self.kind}" if self.name else self.kind


@contextmanager
def followed(module: nn.Module, layers: list[Layer]) -> Iterator[None]:
    """Keep the layers that are being evaluated, the innermost last."""
    handles = []
    for name, part in module.named_modules():

        def begin(*_: Any, name: str = name, part: nn.Module = part) -> None:
            layers.append(Layer(name, type(part).__name__))

        def end(*_: Any) -> None:
            layers.pop()

        handles += [part.register_forward_pre_hook(begin), part.register_forward_hook(end)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
