"""Complex tensors as real and imaginary parts, which are what is drawn, exchanged and trained."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from hpcsamp.errors import UsageError


def parts_of(x: Tensor) -> Tensor:
    """``(*shape, 2)`` real and imaginary parts of a complex tensor, sharing its memory if they can;
    of a real one itself."""
    return torch.view_as_real(x.resolve_conj()) if x.is_complex() else x


def complex_of(parts: Tensor) -> Tensor:
    """The complex tensor of ``(..., 2)`` parts; a view of them where pairs lie at even places, as
    torch wants them, and otherwise a copy."""
    odd = parts.storage_offset() % 2 or any(stride % 2 for stride in parts.stride()[:-1])
    if odd or parts.stride(-1) != 1:
        parts = parts.clone(memory_format=torch.contiguous_format)
    return torch.view_as_complex(parts)


def in_parts(fn: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A conversion that is applied to real and imaginary parts, where torch drops the latter.

    Raises
    ------
    UsageError
        When complex numbers are to have a type that there is none of.
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
    """Move a module and convert its numbers to a real type, complex ones in their parts."""

    def fn(t: Tensor) -> Tensor:
        return t.to(device=device, dtype=dtype if t.is_floating_point() else None)

    module._apply(in_parts(fn))
