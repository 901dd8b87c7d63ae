"""Figure of errors by forecast horizon or by variable."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from hpcsamp.report import style
from hpcsamp.report.records import (
    DoesNotApplyError,
    EvaluationRecord,
    MissingMaterialError,
    RunRecord,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def row_errors(run: RunRecord, evaluation: EvaluationRecord) -> Figure:
    """Draw RMSE and spread over horizons as curves, or the spread-skill ratio by variable as bars.

    Since variables have different units, the RMSE of each is written with its unit next to its
    name.

    Raises
    ------
    DoesNotApplyError
        If the evaluation has no metrics by row.
    """
    rows = evaluation.rows
    if not rows:
        raise DoesNotApplyError(f"{run.name} predicts single values")
    return (_variables if isinstance(rows["labels"][0], str) else _horizons)(run, evaluation, rows)


def _horizons(run: RunRecord, evaluation: EvaluationRecord, rows: dict[str, Any]) -> Figure:
    at = np.asarray(rows["labels"], float)
    name, unit = rows["name"], next(iter(rows["units"]), "")
    fig = style.figure(style.WIDTH, style.HEIGHT)
    axes = fig.subplots()
    for key, label, colour, marker in (
        ("rmse", "RMSE of the mean", style.ORANGE, "s"),
        ("spread", "predictive spread", style.BLUE, "o"),
        ("mae", "MAE of the mean", style.AMBER, "^"),
        ("crps", "CRPS", style.GREEN, "D"),
    ):
        if key in rows:
            values = np.asarray(rows[key], float)
            axes.plot(at, values, color=colour, marker=marker, label=label)
    axes.set_ylim(bottom=0)
    axes.set(
        xlabel="position in the target" if name == "value" else _with_unit(name, evaluation),
        ylabel=unit or "units of the target",
    )
    style.legend(axes, columns=2)
    style.heading(fig, run.title, f"{evaluation.split}, {evaluation.samples} samples")
    return fig


def _with_unit(name: str, evaluation: EvaluationRecord) -> str:
    unit = evaluation.rows.get("axis_units", "")
    return f"{name} / {unit}" if unit else name


def _variables(run: RunRecord, evaluation: EvaluationRecord, rows: dict[str, Any]) -> Figure:
    labels, units = rows["labels"], rows["units"]
    if "spread_skill" not in rows:
        raise MissingMaterialError("a single weight sample has no spread to compare with errors")
    rmse, skill = np.asarray(rows["rmse"], float), np.asarray(rows["spread_skill"], float)
    fig = style.figure(style.WIDTH, max(style.HEIGHT, 0.2 * len(labels) + 1.5))
    axes = fig.subplots()
    top = max(1.1, float(np.nanmax(skill)) * 1.08)
    place = np.arange(len(labels))
    axes.barh(place, skill, color=style.BLUE, alpha=0.65, height=0.72)
    axes.axvline(1, color=style.GREY, linewidth=1, linestyle="--")
    ticks = [
        f"{label}\u2002{_short(error)}{' ' * bool(unit)}{unit}"
        for label, error, unit in zip(labels, rmse, units, strict=True)
    ]
    axes.set_yticks(place, ticks, fontsize=8)
    axes.set(xlim=(0, top), ylim=(len(labels) - 0.4, -0.6), xlabel="spread-skill ratio")
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    style.heading(
        fig,
        run.title,
        f"{evaluation.split}: RMSE of each variable next to its name"
        + (", weighted by area" if "weights" in evaluation.definitions else "")
        + "; bars are 1 if the spread is as large as the error",
    )
    return fig


def _short(value: float) -> str:
    return f"{value:.3g}"
