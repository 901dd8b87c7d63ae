"""Calibration figures: reliability diagram of classes, coverage of predictive intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hpcsamp.report import style
from hpcsamp.report.records import EvaluationRecord, RunRecord

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def reliability_diagram(run: RunRecord, evaluation: EvaluationRecord) -> Figure:
    """Draw accuracy against confidence by bin, and below it the fraction of items in each bin.

    Error bars are 95 % Wilson intervals of the accuracy, since bins with few items scatter.
    """
    edges, count, confidence, accuracy = evaluation.bins("edges", "count", "confidence", "accuracy")
    filled = count > 0
    confidence, accuracy = confidence[filled], accuracy[filled]
    low, high = wilson(accuracy, count[filled])

    fig = style.figure(style.WIDTH, 1.6 * style.HEIGHT)
    upper, lower = fig.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": [3.4, 1]})
    upper.plot([0, 1], [0, 1], color=style.GREY, linewidth=1, linestyle="--")
    upper.annotate(
        "calibrated", (0.13, 0.15), rotation=45, transform_rotates_text=True,
        ha="center", va="bottom", rotation_mode="anchor", fontsize=8.5, color=style.GREY,
    )  # fmt: skip
    upper.vlines(confidence, confidence, accuracy, color=style.ORANGE, linewidth=4, alpha=0.45)
    upper.errorbar(
        confidence,
        accuracy,
        yerr=[accuracy - low, high - accuracy],
        fmt="o",
        color=style.BLUE,
        ecolor=style.BLUE,
        elinewidth=0.9,
        capsize=2,
        markersize=5,
    )
    upper.set(xlim=(0, 1), ylim=(-0.02, 1.02), ylabel="accuracy")
    share = count / count.sum()
    lower.bar(
        edges[:-1], share, width=np.diff(edges), align="edge", color=style.BLUE, alpha=0.55,
        edgecolor="white", linewidth=0.8,
    )  # fmt: skip
    lower.set(xlabel="confidence (largest probability)", ylabel="fraction of items")
    lower.grid(visible=False, axis="x")
    style.heading(
        fig,
        run.title,
        f"{evaluation.split}, {count.sum():.0f} items, {evaluation.samples} weight samples",
        _line(evaluation, accuracy="accuracy", ece="ECE", mace="MACE (bin-unweighted)"),
    )
    return fig


def coverage_diagram(run: RunRecord, evaluation: EvaluationRecord) -> Figure:
    """Draw the observed coverage of central predictive intervals against their nominal level."""
    nominal, observed = evaluation.bins("level", "coverage")  # the last level is 1
    fig = style.figure(style.WIDTH, 1.25 * style.HEIGHT)
    axes = fig.subplots()
    axes.plot([0, 1], [0, 1], color=style.GREY, linewidth=1, linestyle="--")
    axes.plot(nominal[:-1], observed[:-1], "o-", color=style.BLUE)
    for text, at, ha, va in (
        ("too wide", (0.04, 0.96), "left", "top"),
        ("too narrow", (0.96, 0.04), "right", "bottom"),
    ):
        axes.text(*at, text, ha=ha, va=va, fontsize=9, color=style.GREY)
    axes.set(
        xlim=(0, 1), ylim=(0, 1), aspect="equal", xlabel="nominal level of the central interval",
        ylabel="observed coverage",
    )  # fmt: skip
    style.heading(
        fig,
        run.title,
        f"{evaluation.split}, {evaluation.samples} weight samples",
        _line(evaluation, rmse="RMSE", nll="NLL", coverage_90="coverage of 90 % intervals"),
    )
    return fig


def _line(evaluation: EvaluationRecord, **names: str) -> str:
    """Format the calibration metrics of an evaluation in one line."""
    known = {key: evaluation.metrics.get(key) for key in names}
    return ", ".join(f"{names[k]} {v:.3f}" for k, v in known.items() if v is not None)


def wilson(p: np.ndarray, n: np.ndarray, z: float = 1.96) -> tuple[np.ndarray, np.ndarray]:
    """Return the Wilson interval of a binomial proportion.

    Parameters
    ----------
    p, n
        Observed proportions and numbers of trials (> 0), of the same shape.
    z
        Standard normal quantile; 1.96 for 95 %.

    Returns
    -------
    tuple of ndarray
        Lower and upper ends, which enclose ``p``.
    """
    centre = p + z**2 / (2 * n)
    half = z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    scale = 1 + z**2 / n
    low, high = (centre - half) / scale, (centre + half) / scale
    return np.minimum(low, p), np.maximum(high, p)
