"""Which layer of a module is being evaluated, for messages that name it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def followed(module: nn.Module, layers: list[str]) -> Iterator[None]:
    """Keep the names of the layers that are being evaluated, the innermost last."""
    handles = []
    for name, part in module.named_modules():

        def begin(*_: Any, name: str = name, part: nn.Module = part) -> None:
            layers.append(f"{name}, a {type(part).__name__}" if name else type(part).__name__)

        def end(*_: Any) -> None:
            layers.pop()

        handles += [part.register_forward_pre_hook(begin), part.register_forward_hook(end)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
