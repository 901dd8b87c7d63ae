"""Complex tensors as real and imaginary parts, which are drawn, exchanged and trained."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from hpcsamp.errors import UsageError


def parts_of(x: Tensor) -> Tensor:
    """Return ``(*shape, 2)`` real and imaginary parts of a complex tensor, as a view if possible;
    a real tensor is returned unchanged."""
    return torch.view_as_real(x.resolve_conj()) if x.is_complex() else x


def complex_of(parts: Tensor) -> Tensor:
    """Return the complex tensor of ``(..., 2)`` parts: a view if pairs lie at even offsets, as
    torch requires, otherwise a copy."""
    odd = parts.storage_offset() % 2 or any(stride % 2 for stride in parts.stride()[:-1])
    if odd or parts.stride(-1) != 1:
        parts = parts.clone(memory_format=torch.contiguous_format)
    return torch.view_as_complex(parts)


def in_parts(fn: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Apply a conversion to real and imaginary parts, because torch would drop the imaginary ones.

    Raises
    ------
    UsageError
        If complex numbers would be converted to a type without complex numbers.
    """

    def converted(t: Tensor) -> Tensor:
        if not t.is_complex():
            return fn(t)
        parts = fn(parts_of(t.detach()))
        if parts.dtype not in (torch.float32, torch.float64):
            raise UsageError(
                f"complex parameters and buffers cannot be {parts.dtype}: keep the network in "
                f"float32 or float64"
            )
        return torch.view_as_complex(parts)

    return converted


def convert(module: nn.Module, dtype: torch.dtype, device: torch.device | None = None) -> None:
    """Move a module and convert it to a real type; complex tensors by their parts."""

    def fn(t: Tensor) -> Tensor:
        return t.to(device=device, dtype=dtype if t.is_floating_point() else None)

    module._apply(in_parts(fn))
