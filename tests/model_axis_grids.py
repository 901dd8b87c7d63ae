"""Grids with a model axis, and what is trained on them."""

from __future__ import annotations

#: D, P, M.
GRIDS = [
    (1, 1, 1), (1, 1, 2), (1, 1, 4), (1, 2, 2), (2, 1, 2), (1, 3, 2), (3, 1, 2), (2, 2, 2),
    (1, 4, 2), (4, 1, 2), (1, 2, 4), (2, 1, 4),
]  # fmt: skip
#: The first is trained on every grid, the others on these.
FEW = [(1, 1, 1), (1, 1, 2), (1, 1, 4), (1, 2, 2), (2, 1, 4)]
MIXED = "loss.name=predictive_nll"
RUNS: dict[str, tuple[str, ...]] = {
    "mean_field": (),
    "clipped": ("optimizer.clip=0.5", "optimizer.sharded=true", "training.ema=0.9"),
    "shares": ("optimizer.clip=0.5", "optimizer.sharded=weights", "training.ema=0.9"),
    "mixture": (MIXED, "loss.memory=recompute"),
    "moments": ("loss.name=gaussian_moments_nll", "likelihood={}"),
    "error": ("loss.name=mean_mse", "likelihood={}"),
    "pairs": ("loss.name=crps", "likelihood={}", "method.strategy=vmap"),
    "whole_outputs": ("loss.name=energy_score", "likelihood={}"),
    "widths": ("loss.name=expected_nll", "likelihood={name='predicted_gaussian'}"),
    "ensemble": ("method.name=ensemble", "method.prior_std=1.0", "optimizer.clip=0.5"),
    "anchored": ("method.name=ensemble", "method.prior_std=1.0", "method.anchored=true", MIXED),
    "masks": ("method.name=mc_dropout", "method.prior_std=1.0", "model.dropout=0.2"),
    "masks_of_items": (
        "method.name=mc_dropout", "method.masks=item", "model.dropout=0.2", "method.strategy=vmap",
    ),
    "noise_and_dropout": ("model.dropout=0.2",),
}  # fmt: skip
#: Begun on the first grid, gone on with on the second.
RESUMED = [((1, 1, 2), (1, 1, 1)), ((1, 1, 1), (1, 2, 2)), ((1, 1, 4), (1, 1, 2))]
RUNS_RESUMED = ("mean_field", "clipped", "ensemble", "masks")
