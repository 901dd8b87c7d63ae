"""Random choices with a gradient (Jang, Gu and Poole 2017; Maddison, Mnih and Teh 2017)."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F  # noqa: N812

from hpcsamp.weights.routing.now import Now, Route
from hpcsamp.weights.routing.numbers import Exponential


def gumbel_softmax(
    now: Now, logits: Any, tau: float = 1, hard: bool = False, eps: float = 1e-10, dim: int = -1
) -> Any:
    """``softmax((logits + g) / tau)`` with Gumbel noise ``g``, or its largest entry as one-hot."""
    clocks = now.draw("gumbel_softmax", logits.shape, Exponential(logits.dtype))
    soft = ((logits - clocks.log()) / tau).softmax(dim)
    if not hard:
        return soft
    count = soft.shape[dim]
    places = torch.arange(count, device=logits.device)
    places = places.view(
        [count if axis == dim % len(soft.shape) else 1 for axis in range(len(soft.shape))]
    )
    largest = (soft.argmax(dim, keepdim=True) == places).to(soft.dtype)
    return largest - soft.detach() + soft


ROUTES: dict[Any, Route] = {F.gumbel_softmax: gumbel_softmax}
