"""Build networks without values: parameters have shapes and types, but use no memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode


class _Unfilled(TorchFunctionMode):
    """Mode that skips torch's initialisers, because tensors on the meta device have no values.

    On that device torch's own initialisers import its compiler, which takes longer than to build
    the network itself.
    """

    FILLS = (torch.Tensor.normal_, torch.Tensor.uniform_, nn.init.normal_, nn.init.uniform_)
    MAKES = (torch.randn, torch.rand)

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in self.FILLS:
            return args[0] if args else kwargs["tensor"]
        if func in self.MAKES:
            func = torch.empty
            kwargs = {k: v for k, v in kwargs.items() if k != "generator"}
        return func(*args, **kwargs)


@contextmanager
def blank() -> Iterator[None]:
    """Context in which networks are built on the meta device."""
    with torch.device("meta"), _Unfilled():
        yield
