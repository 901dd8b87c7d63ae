"""Grids on which weights are sharded, and the runs that are trained on them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

#: D, P. S = 5 on two ranks and on three is uneven.
GRIDS = [(1, 1), (1, 2), (1, 3), (2, 2), (2, 3)]
#: The first is trained on every grid, the others on these.
FEW = [(1, 1), (2, 3)]
MIXED = "loss.name=predictive_nll"
RUNS: dict[str, tuple[str, ...]] = {
    "stream": ("model={name='vit',patch=4,width=8,heads=2,layers=1}",),
    "clipped": (
        "optimizer.clip=0.1", "training.ema=0.9", "method.antithetic=true",
        "method.prior=empirical_bayes",
    ),
    "keep": (
        MIXED, "method.samples_per_pass=2",
        "method.priors=[{pattern='layers.1.*', mean=0.1, std=0.4}]",
    ),
    "recompute": (MIXED, "loss.memory=recompute", "data.accumulate=2"),
    "views": ("augment.crop=1", "method.samples_per_pass=auto"),
    "fixed": ("method.bayesian=['layers.1.*']", "optimizer={name='SGD',momentum=0.9}"),
    "batch_norm": ("model={name='shares_grids:Normed'}", MIXED, "evaluation.batch_norm=estimated"),
}  # fmt: skip
#: Begun on the first grid, gone on with on the others, each with its ``optimizer.sharded``.
RESUMED = [
    (((1, 3), '"weights"'), ((1, 1), "false")),
    (((1, 2), "true"), ((2, 3), '"weights"')),
    (((2, 2), '"weights"'), ((1, 3), '"weights"')),
]


class Normed(nn.Module):
    """Normalises over the batch, and leaves a parameter unused."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, 4, 3, stride=2), nn.BatchNorm2d(4)
        self.unused = nn.Parameter(torch.ones(60))
        self.head = nn.Linear(36, 10)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, 10)`` of ``(B, 1, 8, 8)``."""
        y: Tensor = self.head(self.norm(self.first(x)).relu().flatten(1))
        return y
