"""Metrics of ordered classes."""

from __future__ import annotations

import torch
from torch import Tensor

from hpcsamp.metrics.sums import Sums


class OrdinalMetrics(Sums):
    """Distance of the predictive distribution of a rank from the true rank: MAE and RPS.

    ``mae_rank`` is the mean of ``|m - t|`` with m the median of the predictive distribution (the
    smallest rank with ``P(rank <= m) >= 1/2``), which minimises it. The ranked probability score is
    ``sum_k (P(rank <= k) - [t <= k])^2``, k from 0 to C - 2 (Epstein 1969, without the division by
    C - 1); it is the CRPS of a rank.
    """

    def __init__(self) -> None:
        super().__init__(("items", "absolute", "rps"), {})

    def update(self, log_probabilities: Tensor, target: Tensor, weight: Tensor) -> None:
        """Add predictions ``(B, C)`` of ranks ``(B,)``; items of weight 0 are ignored."""
        keep = weight > 0
        w, t = weight[keep].double(), target[keep].long()
        up_to = log_probabilities[keep].double().exp().cumsum(-1)
        # rounding may leave the sum of half of the probabilities slightly below 1/2
        median = (up_to < 0.5 - 1e-12).sum(-1)
        ranks = torch.arange(up_to.shape[-1], device=w.device)
        score = (up_to - (t[:, None] <= ranks).double())[:, :-1].square().sum(-1)
        self.add(
            {
                "items": w.sum(),
                "absolute": (w * (median - t).abs()).sum(),
                "rps": (w * score).sum(),
            },
            {},
        )

    def compute(self) -> dict[str, float]:
        """Compute ``mae_rank`` and ``rps``."""
        sums, _ = self.read()
        n = sums["items"]
        return {"mae_rank": sums["absolute"] / n, "rps": sums["rps"] / n}
