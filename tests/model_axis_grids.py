"""Grids with a model axis, and the runs that are trained on them."""

from __future__ import annotations

#: D, P, M.
GRIDS = [
    (1, 1, 1), (1, 1, 2), (1, 1, 4), (1, 2, 2), (2, 1, 2), (1, 3, 2), (3, 1, 2), (2, 2, 2),
    (1, 4, 2), (4, 1, 2), (1, 2, 4), (2, 1, 4),
]  # fmt: skip
#: The first is trained on every grid, the others on these; on 4 model ranks those that compute with
#: the layout of the weights in different ways.
FEW = [(1, 1, 1), (1, 2, 2)]
ON_FOUR = ("mean_field", "clipped", "shares", "mixture", "pairs", "anchored", "masks_of_items")
MIXED = "loss.name=predictive_nll"
#: The usual likelihood, whose widths are learnt.
LEARNED = "likelihood={}"
GROUPS = "optimizer.groups=[{pattern='*blocks.*', lr=3e-3}, {pattern='log_std', lr=2e-2}]"
MORE_GROUPS = GROUPS[:-1] + ", {pattern='*embed*', of='mean', lr=2e-3}]"
RUNS: dict[str, tuple[str, ...]] = {
    "mean_field": (),
    "clipped": (
        "optimizer.clip=0.5", "optimizer.sharded=true", "training.ema=0.9",
        "method.prior=empirical_bayes",
    ),
    "shares": (
        "optimizer.clip=0.5", "optimizer.sharded=weights", "training.ema=0.9",
        "method.prior=empirical_bayes",
    ),
    "mixture": (MIXED, "loss.memory=recompute"),
    "moments": ("loss.name=gaussian_moments_nll", "likelihood={}"),
    "error": ("loss.name=mean_mse", "likelihood={}"),
    "pairs": ("loss.name=crps", "likelihood={}", "method.strategy=vmap"),
    "whole_outputs": ("loss.name=energy_score", "likelihood={}"),
    "widths": ("loss.name=expected_nll", "likelihood={name='predicted_gaussian'}"),
    "ensemble": ("method.name=ensemble", "method.prior_std=1.0", "optimizer.clip=0.5"),
    "anchored": (
        "method.name=ensemble", "method.prior_std=1.0", "method.anchored=true", MIXED, LEARNED,
    ),
    "masks": ("method.name=mc_dropout", "method.prior_std=1.0", "model.dropout=0.2"),
    "masks_of_items": (
        "method.name=mc_dropout", "method.masks=item", "model.dropout=0.2", "method.strategy=vmap",
        LEARNED, GROUPS,
    ),
    "noise_and_dropout": (
        "model.dropout=0.2", "optimizer.name=AdamW", LEARNED, MORE_GROUPS, "method.prior=scaled",
    ),
}  # fmt: skip
#: Products in a shorter type, which ranks round differently; on the first two grids.
HALF = ("training.precision=bfloat16",)
#: Begun on the first grid, gone on with on the others; steps that are done after each.
RESUMED = {(1, 1, 1): 1, (1, 1, 4): 2, (1, 2, 2): 3, (1, 1, 2): 4}
RUNS_RESUMED = ("mean_field", "noise_and_dropout", "clipped", "anchored", "masks_of_items")
#: Evaluated, as they were trained on two model ranks, on these grids.
EVALUATED = ("mean_field", "noise_and_dropout")
EVALUATIONS = [(1, 1, 1), (1, 1, 2), (1, 2, 2), (2, 1, 2)]


def trained(grid: tuple[int, int, int]) -> list[str]:
    """What is trained on a grid, by name."""
    if grid in FEW:
        return [*RUNS]
    own = {(1, 1, 2): EVALUATED, (1, 1, 4): (*ON_FOUR, "noise_and_dropout")}
    return [*own.get(grid, ("mean_field",))]


def settings_of(name: str, grid: tuple[int, int, int]) -> tuple[str, ...]:
    """Settings of a run on a grid. A clock would take longer than four steps to find a chunk, so
    samples are passed one by one, on two model ranks in pairs; one grid is left to the clock.
    """
    chunk = {(2, 1, 2): "auto"}.get(grid, 2 if grid[2] == 2 else 1)
    return *RUNS[name], f"method.samples_per_pass={chunk}"
