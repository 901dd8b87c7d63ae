"""Evaluate samples by ``torch.func.vmap``, keeping attention fused.

Functions for which vmap has no good rule are routed to ones that have a rule
(:data:`hpcsamp.weights.routing.table.OF_VMAP`). Any other operation without a rule makes the pass
impossible.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hpcsamp.weights.routing import routed
from hpcsamp.weights.routing.forms import Vmapped
from hpcsamp.weights.strategies.chunk import Chunk
from hpcsamp.weights.vectorised import vectorised


def run(chunk: Chunk) -> Tensor:
    """Return ``(k, B, ...)`` outputs by one vectorised pass.

    Raises
    ------
    NotPossibleError
        If vmap would loop over an operation; the message names it.
    """

    def one(sampled: dict[str, Tensor], x: Tensor, marker: Tensor) -> Tensor:
        mode = routed(chunk, Vmapped(marker), vmap=True)
        with chunk.put(chunk.shared), chunk.put(sampled), mode:
            return chunk.call(x)

    draws = chunk.plan is not None and chunk.plan.calls
    marker = torch.arange(chunk.samples, device=chunk.x.device)
    axes = (0, 0 if chunk.stacked else None, 0)
    if not chunk.sampled and not chunk.stacked and not draws:  # all samples are equal
        alike = one({}, chunk.x, marker)
        return alike.expand(chunk.samples, *alike.shape)
    y: Tensor = vectorised(one, axes, dict(chunk.sampled), chunk.x, marker)
    return y
