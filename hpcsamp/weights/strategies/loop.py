"""Evaluate one sample after the other: the reference strategy, which every module supports."""

from __future__ import annotations

import torch
from torch import Tensor

from hpcsamp.weights.routing import alone
from hpcsamp.weights.strategies.chunk import Chunk


def run(chunk: Chunk) -> Tensor:
    """Return ``(k, B, ...)`` outputs by ``k`` passes."""
    names = list(chunk.sampled)
    # unbind instead of slices: its backward is one stack, not k sums of full size; for a single
    # sample it costs nothing
    one = chunk.samples == 1
    rows = [(_only(v),) if one else v.unbind() for v in chunk.sampled.values()]
    views = chunk.x.unbind() if chunk.stacked else (chunk.x,) * chunk.samples
    outputs = []
    with chunk.put(chunk.shared):
        for s, x in enumerate(views):
            with chunk.put({name: row[s] for name, row in zip(names, rows, strict=True)}):
                outputs.append(alone(chunk, s, x))
    return outputs[0][None] if chunk.samples == 1 else torch.stack(outputs)


def _only(value: Tensor) -> Tensor:
    """Return the value of a single sample; a leaf of autograd, if ``value`` is ``leaf[None]``.

    Autograd would reach the leaf through views only after it has passed all layers, because they
    are older than the layers; the gradient could not be exchanged in the meantime.
    """
    leaf = value._base
    if leaf is not None and leaf.is_leaf and leaf.requires_grad:
        same = leaf.shape == value.shape[1:] and leaf.stride() == value.stride()[1:]
        if same and leaf.data_ptr() == value.data_ptr():
            return leaf
    return value.squeeze(0)
