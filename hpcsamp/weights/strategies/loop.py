"""One sample after the other: what every module can do, and what the others are compared with."""

from __future__ import annotations

import torch
from torch import Tensor

from hpcsamp.weights.routing import alone
from hpcsamp.weights.strategies.chunk import Chunk


def run(chunk: Chunk) -> Tensor:
    """``(k, B, ...)`` outputs by ``k`` passes."""
    names = list(chunk.sampled)
    # unbind, not slices: its backward is one stack, that of k slices k full-size sums; that of a
    # single sample costs nothing
    one = chunk.samples == 1
    rows = [(v.squeeze(0),) if one else v.unbind() for v in chunk.sampled.values()]
    views = chunk.x.unbind() if chunk.stacked else (chunk.x,) * chunk.samples
    outputs = []
    with chunk.put(chunk.shared):
        for s, x in enumerate(views):
            with chunk.put({name: row[s] for name, row in zip(names, rows, strict=True)}):
                outputs.append(alone(chunk, s, x))
    return outputs[0][None] if chunk.samples == 1 else torch.stack(outputs)
