"""Calibration of the predictive spread: PIT histogram, and error against spread."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hpcsamp.report import style
from hpcsamp.report.records import EvaluationRecord, MissingMaterialError, RunRecord

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Bins with a smaller fraction of the values are not drawn, because they scatter too much.
LEAST_SHARE = 1e-3


def spread_diagrams(run: RunRecord, evaluation: EvaluationRecord) -> Figure:
    """Draw the PIT histogram of the targets (above) and RMSE against spread (below).

    Raises
    ------
    MissingMaterialError
        If the evaluation does not hold both tables.
    """
    pit, spread, error, share = evaluation.bins("pit", "spread", "error", "share")
    fig = style.figure(style.WIDTH, 2 * style.HEIGHT)
    upper, lower = fig.subplots(2, 1, height_ratios=[1, 1.5])
    edges = np.linspace(0, 1, len(pit) + 1)
    upper.bar(
        edges[:-1], pit * len(pit), width=np.diff(edges), align="edge", color=style.BLUE,
        alpha=0.6, edgecolor="white", linewidth=0.8,
    )  # fmt: skip
    upper.axhline(1, color=style.GREY, linewidth=1, linestyle="--")
    upper.grid(visible=False, axis="x")
    upper.set(
        title="Rank of targets (PIT)", xlim=(0, 1), ylabel="density (1 if calibrated)",
        xlabel="predictive distribution function at the target",
    )  # fmt: skip
    keep = (share >= LEAST_SHARE) & (spread > 0) & (error > 0)
    if not keep.any():
        raise MissingMaterialError("there is no spread above 0 to compare with errors")
    spread, error, share = spread[keep], error[keep], share[keep]
    both = np.concatenate([spread, error])
    ends = np.array([both.min() / 1.25, both.max() * 1.25])
    lower.plot(ends, ends, color=style.GREY, linewidth=1, linestyle="--")
    lower.plot(spread, error, "-", color=style.BLUE, alpha=0.4, linewidth=1)
    lower.scatter(spread, error, s=15 + 320 * share, color=style.BLUE, alpha=0.75, linewidth=0)
    for text, at, ha, va in (
        ("overconfident", (0.03, 0.97), "left", "top"),
        ("underconfident", (0.97, 0.03), "right", "bottom"),
    ):
        lower.text(*at, text, transform=lower.transAxes, ha=ha, va=va, fontsize=9,
                   color=style.GREY)  # fmt: skip
    lower.set(
        xscale="log", yscale="log", xlim=ends, ylim=ends, aspect="equal",
        title="Spread and error", xlabel="predicted standard deviation",
        ylabel="root mean squared error",
    )  # fmt: skip
    _plain_ticks(lower)
    metrics = evaluation.metrics
    values = [
        f"{name} {metrics[key]:.3g}"
        for key, name in (("spread_skill", "spread-skill ratio"), ("mace", "MACE of coverage"))
        if metrics.get(key) is not None
    ]
    style.heading(
        fig,
        run.title,
        ", ".join([evaluation.split, *values]) + "; below: in standard deviations of the target",
    )
    return fig


def _plain_ticks(axes: object) -> None:
    """Label a few ticks with plain numbers, since the range may contain no power of ten."""
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    for axis in (axes.xaxis, axes.yaxis):  # type: ignore[attr-defined]
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.set_major_formatter(ScalarFormatter())
        axis.set_minor_formatter(NullFormatter())
