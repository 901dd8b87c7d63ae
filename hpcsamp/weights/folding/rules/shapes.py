"""Shape operations on sampled values: expansion to items, slices, and concatenation with items."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from hpcsamp.weights.folding.fold import Fold
from hpcsamp.weights.folding.sampled import Sampled


def expand(fold: Fold, value: Any, *sizes: Any) -> Any:
    """Expand; folded if a sampled value (e.g. a class token) is expanded to a row for each item."""
    wanted = _sizes(sizes)
    if type(value) is not Sampled or len(wanted) < value.dim():
        return NotImplemented
    shape = [1] * (len(wanted) - value.dim()) + list(value.shape)
    wanted = [n if n >= 0 else own for n, own in zip(wanted, shape, strict=True)]
    axis = _axis(fold, wanted)
    if axis is None or shape[axis] != 1:
        return NotImplemented
    wanted[axis] //= fold.samples
    whole = value.value.view(fold.samples, *shape).expand(fold.samples, *wanted)
    return fold.into(whole, axis)


def expand_as(fold: Fold, value: Any, other: Any) -> Any:
    """See :func:`expand`."""
    return expand(fold, value, other.shape)


def repeat(fold: Fold, value: Any, *sizes: Any) -> Any:
    """Repeat; folded if a sampled value is repeated for each item."""
    counts = _sizes(sizes)
    if type(value) is not Sampled or len(counts) < value.dim():
        return NotImplemented
    shape = [1] * (len(counts) - value.dim()) + list(value.shape)
    axis = _axis(fold, [n * own for n, own in zip(counts, shape, strict=True)])
    if axis is None or counts[axis] % fold.samples:
        return NotImplemented
    counts[axis] //= fold.samples
    return fold.into(value.value.view(fold.samples, *shape).repeat(1, *counts), axis)


def cat(fold: Fold, tensors: Sequence[Any], dim: int = 0) -> Any:
    """Concatenate along an axis other than the batch, or along any axis if none has items."""
    axes = tensors[0].dim()
    dim, axis = dim % axes if axes else dim, None
    parts = []
    for t in tensors:
        if type(t) is Sampled:
            parts.append(t.value)
            continue
        rows = fold.rows(t)
        if rows is not None:
            axis = rows.axis
        out = t[None] if rows is None else fold.out(t, rows)
        parts.append(out.expand(fold.samples, *[-1] * t.dim()))
    if any(p.dim() != axes + 1 for p in parts) or dim == axis:
        return NotImplemented
    y = torch.cat(parts, dim + 1)
    return Sampled(y, fold) if axis is None else fold.into(y, axis)


def getitem(fold: Fold, value: Any, index: Any) -> Any:
    """Index by slices, numbers and new axes."""
    index = index if isinstance(index, tuple) else (index,)
    plain = all(i is None or i is Ellipsis or isinstance(i, (int, slice)) for i in index)
    if type(value) is not Sampled or not plain or any(isinstance(i, bool) for i in index):
        return NotImplemented
    return Sampled(value.value[(slice(None), *index)], fold)


def _sizes(sizes: Sequence[Any]) -> list[int]:
    """Return sizes that were passed as several numbers or as one sequence."""
    first = sizes[0] if sizes else ()
    return list(first) if isinstance(first, (tuple, list)) else [int(n) for n in sizes]


def _axis(fold: Fold, wanted: Sequence[int]) -> int | None:
    """Axis that becomes the axis of samples and items."""
    both = fold.samples * fold.items
    if wanted and wanted[0] and wanted[0] % both == 0:
        return 0
    return 1 if len(wanted) > 1 and wanted[1] == both else None


RULES: dict[Any, Callable[..., Any]] = {
    Tensor.expand: expand,
    Tensor.expand_as: expand_as,
    torch.broadcast_to: expand,
    Tensor.broadcast_to: expand,
    Tensor.repeat: repeat,
    torch.cat: cat,
    torch.concat: cat,
    torch.concatenate: cat,
    Tensor.__getitem__: getitem,
}
