"""The outputs of prediction samples, and how many each rank of a sample group evaluates."""

from __future__ import annotations

import torch
from torch import Tensor

from hpcsamp.collectives import Collectives
from hpcsamp.methods import Method


def local_outputs(
    method: Method, x: Tensor, samples: int, group: Collectives, index: Tensor | None = None
) -> Tensor:
    """``(s, B, ...)`` outputs of this rank's share of ``samples`` prediction samples.

    ``index``: ``(B,)`` positions of the items in their split, see :meth:`Method.forward`.
    """
    mine = method.prediction_share(samples, group.sample_size, group.sample_rank)
    with torch.no_grad(), method.predicting():
        return method(x, samples=mine, step=0, index=index)


def sample_counts(method: Method, samples: int, group: Collectives) -> list[int]:
    """How many prediction samples each rank of the sample group evaluates. Collective."""
    mine = method.prediction_share(samples, group.sample_size, group.sample_rank)
    counts = torch.zeros(group.sample_size, dtype=torch.float64)
    counts[group.sample_rank] = len(mine)
    if group.sample_size > 1:
        group.sum_(counts, "sample")
    return [int(n) for n in counts.tolist()]
