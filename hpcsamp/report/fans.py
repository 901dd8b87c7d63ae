"""Forecasts of time series: history, predicted quantile bands and observed values."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hpcsamp.errors import HpcsampError
from hpcsamp.report import style
from hpcsamp.report.gallery import read_inputs
from hpcsamp.report.records import (
    DoesNotApplyError,
    EvaluationRecord,
    MissingMaterialError,
    RunRecord,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Quantiles of the uncertainty at which items are shown, and their names.
PLACES = ((0.05, "low"), (0.5, "median"), (0.95, "high"))
PER_PLACE = 2


def forecast_fans(run: RunRecord, evaluation: EvaluationRecord) -> Figure:
    """Draw forecasts of low, median and high uncertainty, two of each.

    Raises
    ------
    MissingMaterialError
        If the evaluation does not contain quantiles of time series.
    """
    if evaluation.items is None:
        raise MissingMaterialError(f"{run.path} has no evaluation/{evaluation.split}.h5")
    with evaluation.open() as f:
        if "quantiles" not in f or f["quantiles"].ndim != 3:
            raise DoesNotApplyError(f"{run.name} does not predict time series")
        scale = f["target"].dims[1][0]
        if scale.dtype.kind not in "iuf":
            raise DoesNotApplyError(f"{run.name} predicts different quantities, not a time series")
        rows, names = chosen(f["total"][:])
        order = np.argsort(rows)
        back = np.argsort(order)
        picked = rows[order].tolist()
        bands, truth = f["quantiles"][picked][back], f["target"][picked][back]
        levels, unit = f["quantile"][:], f["target"].attrs.get("units", "")
        steps, axis = scale[:].astype(float), scale.name.rpartition("/")[2]
        axis = axis.removeprefix(f"{evaluation.target}_")
        axis_unit = scale.attrs.get("units", "")
        index = f["index"][:][rows]
        total = f["total"][:][rows]
        alike = "series" not in f or len(set(f["series"][:][rows].tolist())) == 1
    history = _history(run, evaluation.split, index, unit)
    if axis == "value":
        steps, axis = steps + 1, "step"
    fig = style.figure(style.WIDTH, 2 * style.HEIGHT)
    grid = fig.subplots(len(PLACES), PER_PLACE, sharex=True, sharey=alike)
    for i, axes in enumerate(np.ravel(grid)):
        past = None if history is None else history[i]
        _fan(axes, steps, bands[i], levels, truth[i], past)
        axes.set_title(f"{names[i]} uncertainty, item {index[i]}", fontsize=8.5, pad=15)
        axes.text(0, 1.03, f"mean variance {total[i]:.3g}", transform=axes.transAxes,
                  ha="left", va="bottom", fontsize=7.5, color=style.GREY)  # fmt: skip
    for axes in grid[:, 0]:
        axes.set_ylabel(unit or "target")
    for axes in grid[-1]:
        axes.set_xlabel(f"{axis} / {axis_unit}" if axis_unit else axis)
    handles, labels = grid[0, 0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=3)
    style.heading(fig, run.title, f"{evaluation.split}, {evaluation.samples} samples")
    return fig


def chosen(total: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Choose items around three quantiles of the uncertainty; return rows and quantile names."""
    order = np.argsort(total, kind="stable")
    rows, names = [], []
    for place, name in PLACES:
        middle = round(place * (len(order) - 1))
        first = min(max(0, middle - PER_PLACE // 2), max(0, len(order) - PER_PLACE))
        for k in range(PER_PLACE):
            rows.append(int(order[min(first + k, len(order) - 1)]))
            names.append(name)
    return np.array(rows), names


def _history(run: RunRecord, split: str, index: np.ndarray, unit: str) -> np.ndarray | None:
    """Return past values of the target: the inputs, if they are a series in the target's unit."""
    from pathlib import Path

    from hpcsamp.data.manifest import read_manifest

    try:
        manifest = read_manifest(Path(run.setting("data", "path", default="")))
        x = manifest.arrays.get("x")
        if x is None or len(x.shape) != 1 or not unit or x.units != unit:
            return None
        return read_inputs(run, split, index)
    except HpcsampError:
        return None


def _fan(
    axes: Axes,
    steps: np.ndarray,
    bands: np.ndarray,
    levels: np.ndarray,
    truth: np.ndarray,
    past: np.ndarray | None,
) -> None:
    if past is not None:
        width = steps[1] - steps[0] if len(steps) > 1 else 1.0
        shown = past[-2 * len(steps) :]
        axes.plot(width * np.arange(1 - len(shown), 1), shown, color=style.INK, linewidth=1,
                  label="history")  # fmt: skip
        axes.axvline(0, color=style.PALE, linewidth=1)
    pairs = len(levels) // 2
    for k in range(pairs):
        share = levels[-1 - k] - levels[k]
        axes.fill_between(steps, bands[k], bands[-1 - k], color=style.BLUE, linewidth=0,
                          alpha=0.16 + 0.16 * k, label=f"{100 * share:.0f} %")  # fmt: skip
    if len(levels) % 2:
        axes.plot(steps, bands[pairs], color=style.BLUE, label="median")
    axes.plot(steps, truth, "--", color=style.ORANGE, linewidth=1.4, label="truth")
