"""Selective prediction and out-of-distribution detection: risk-coverage curve and histograms."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hpcsamp.report import style
from hpcsamp.report.records import DoesNotApplyError, EvaluationRecord, RunRecord

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Number of out-of-distribution items below which bins are merged in pairs.
FEW = 400
_SCORES = {
    "total": "total uncertainty",
    "epistemic": "epistemic uncertainty",
    "confidence": "1 − largest probability",
}


def risk_coverage_curve(run: RunRecord, evaluation: EvaluationRecord) -> Figure:
    """Draw the error rate of the most confident items against the fraction that is answered.

    Raises
    ------
    MissingMaterialError
        If the evaluation has no risk-coverage curve.
    """
    (risk,) = evaluation.bins("risk")
    coverage = np.arange(1, len(risk) + 1) / len(risk)
    fig = style.figure(style.WIDTH, style.HEIGHT)
    axes = fig.subplots()
    axes.axhline(risk[-1], color=style.GREY, linewidth=1, linestyle="--")
    axes.annotate(
        "all items, or items chosen at random", (0.02, risk[-1]), ha="left", va="bottom",
        fontsize=8.5, color=style.GREY,
    )  # fmt: skip
    axes.plot(coverage, risk, color=style.BLUE)
    axes.fill_between(coverage, 0, risk, color=style.BLUE, alpha=0.12, linewidth=0)
    aurc = evaluation.metrics.get("aurc")
    if aurc is not None:
        top = max(float(risk.max()), float(risk[-1])) * 1.15
    axes.set(
        xlim=(0, 1), ylim=(0, top if top > 0 else 1), ylabel="error rate of the answered items",
        xlabel="coverage: fraction of items answered, most confident first",
    )  # fmt: skip
    line = f"{evaluation.split}, {evaluation.samples} samples"
    line += f", area under the curve (AURC) {aurc:.4f}" if aurc is not None else ""
    style.heading(fig, run.title, line)
    return fig


def ood_histograms(run: RunRecord, evaluation: EvaluationRecord) -> Figure:
    """Draw histograms of each uncertainty over the split and over out-of-distribution items.

    Raises
    ------
    DoesNotApplyError
        If no out-of-distribution items were evaluated.
    """
    ood = evaluation.ood
    if not ood:
        raise DoesNotApplyError(
            f"no out-of-distribution items (hpcsamp evaluate {run.path} --ood DIR)"
        )
    scores = ood["scores"]
    fig = style.figure(style.WIDTH, 0.9 + 2.5 * len(scores))
    grid = fig.subplots(len(scores), 1, squeeze=False)[:, 0]
    for axes, (name, histogram) in zip(grid, scores.items(), strict=True):
        edges = np.asarray(histogram["edges"])
        for key, colour, label in (
            ("inside", style.BLUE, evaluation.split),
            ("outside", style.ORANGE, ood["dataset"].rstrip("/").rpartition("/")[2]),
        ):
            count = np.asarray(histogram[key], float)
            if ood["items"] < FEW and len(count) % 2 == 0:
                edges, count = np.asarray(histogram["edges"])[::2], count[::2] + count[1::2]
            axes.stairs(count / count.sum(), edges, color=colour, linewidth=1.6, label=label)
            axes.stairs(count / count.sum(), edges, color=colour, alpha=0.18, fill=True)
        title = [
            f"{metric} {evaluation.metrics[key]:.3f}"
            for metric, key in (("AUROC", f"ood_auroc_{name}"), ("FPR95", f"ood_fpr95_{name}"))
            if evaluation.metrics.get(key) is not None
        ]
        axes.set(title=", ".join(title), xlabel=_SCORES.get(name, name))
        axes.set_ylim(bottom=0)
        axes.set_ylabel("items per bin (fraction)")
    handles, labels = grid[0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=2)
    style.heading(
        fig, run.title, f"{evaluation.split} and {ood['items']} out-of-distribution items"
    )
    return fig
