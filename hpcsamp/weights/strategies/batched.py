"""Fold samples into the batch, with one batched product per layer that has sampled weights.

Layers before the first one with sampled weights run once for all samples (:func:`late`). If that is
not possible, as with a residual around that layer, inputs are folded at once (:func:`early`).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from hpcsamp.weights.folding import Fold, Sampled, dispatch
from hpcsamp.weights.routing import routed
from hpcsamp.weights.routing.forms import Folded
from hpcsamp.weights.strategies.chunk import Chunk, NotPossibleError


def late(chunk: Chunk) -> Tensor:
    """Return ``(k, B, ...)`` outputs of a pass in which inputs have no samples."""
    if chunk.stacked:
        raise NotPossibleError("each sample has its own inputs")
    return _run(chunk, chunk.x, True)


def early(chunk: Chunk) -> Tensor:
    """Return ``(k, B, ...)`` outputs of a pass whose inputs are folded."""
    x = chunk.x if chunk.stacked else chunk.x.expand(chunk.samples, *chunk.x.shape)
    return _run(chunk, x.flatten(0, 1), False)


def _run(chunk: Chunk, x: Tensor, without: bool) -> Tensor:
    k, items = chunk.samples, chunk.items
    fold = Fold(k, items, without, dispatch)
    values: dict[str, Any] = dict(chunk.shared)
    for name, value in chunk.sampled.items():
        values[name] = Sampled(value, fold)
    with chunk.put(values), routed(chunk, Folded(fold)):
        y: Any = chunk.call(x)
    if isinstance(y, Sampled):
        return y.value
    if y.shape[:1] == (k * items,):
        return y.view(k, items, *y.shape[1:]) if y.is_contiguous() else y.unflatten(0, (k, items))
    if without and y.shape[:1] == (items,):
        return y.expand(k, *y.shape)
    raise NotPossibleError(f"outputs of shape {tuple(y.shape)} for {k} samples of {items} items")
