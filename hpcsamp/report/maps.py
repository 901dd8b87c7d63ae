"""Maps of predicted fields: predictive mean, truth, error and spread of one item."""

from __future__ import annotations

from collections.abc import Sequence
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
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Variables to show if the dataset has them; otherwise the first ones are shown.
USUAL = ("2m_temperature", "geopotential@500", "10m_u_component_of_wind")
SHOWN = 3

Fields = dict[str, np.ndarray]


def weather_maps(run: RunRecord, evaluation: EvaluationRecord) -> Figure:
    """Draw mean, truth, error and spread of the item of median uncertainty, two rows per variable.

    Raises
    ------
    MissingMaterialError
        If the evaluation holds no fields over latitude and longitude.
    """
    if evaluation.items is None:
        raise MissingMaterialError(f"{run.path} has no evaluation/{evaluation.split}.h5")
    with evaluation.open() as f:
        if "latitude" not in f and "latitude" not in _coordinates(run):
            raise DoesNotApplyError(f"{run.name} does not predict fields")
        if "mean" not in f:
            raise MissingMaterialError(
                f"the fields were too large to be saved by the evaluation; save them with "
                f"hpcsamp predict {run.path}"
            )
        order = np.argsort(f["total"][:], kind="stable")
        row = int(order[(len(order) - 1) // 2])
        latitude, longitude = f["latitude"][:], f["longitude"][:]
        names, places = _variables(f)
        fields = [
            {name: f[name][(row, *place)] for name in ("mean", "target", "std")} for place in places
        ]
        when = _time(f, row)
    known = dict(
        zip(evaluation.rows.get("labels", []), evaluation.rows.get("units", []), strict=False)
    )
    units = [known.get(name, "") for name in names]
    words = f"{evaluation.split}, item {row}{when}, of median uncertainty"
    return draw_fields(fields, names, units, latitude, longitude, (run.title, words))


def draw_fields(
    fields: Sequence[Fields],
    names: Sequence[str],
    units: Sequence[str],
    latitude: np.ndarray,
    longitude: np.ndarray,
    heading: Sequence[str],
) -> Figure:
    """Draw mean, truth, error and spread of each variable in two rows.

    Parameters
    ----------
    fields
        ``mean``, ``target`` and ``std`` of each variable, ``(H, W)``; NaN where missing.
    """
    fig = style.figure(style.WIDTH, 3.2 * len(names) + 0.9)
    grid = fig.subplots(2 * len(names), 2, squeeze=False, sharex=True, sharey=True)
    for r, (name, unit, field) in enumerate(zip(names, units, fields, strict=True)):
        error = field["mean"] - field["target"]
        both = np.stack([field["mean"], field["target"]])
        low, high = np.nanpercentile(both, [0.5, 99.5])
        size = float(np.nanpercentile(abs(error), 99.5)) or 1.0
        for c, (title, values, look) in enumerate((
            ("mean", field["mean"], {"cmap": "viridis", "vmin": low, "vmax": high}),
            ("truth", field["target"], {"cmap": "viridis", "vmin": low, "vmax": high}),
            ("error (mean − truth)", error, {"cmap": "RdBu_r", "vmin": -size, "vmax": size}),
            ("spread (std)", field["std"], {"cmap": "magma_r", "vmin": 0}),
        )):  # fmt: skip
            axes = grid[2 * r + c // 2, c % 2]
            _map(fig, axes, longitude, latitude, values, look, unit)
            axes.set_title(title if c else f"{name}\n{title}", fontsize=9)
        for axes in grid[2 * r : 2 * r + 2, 0]:
            axes.set_ylabel("latitude", fontsize=8.5)
    for axes in grid[-1]:
        axes.set_xlabel("longitude")
    style.heading(fig, *heading)
    return fig


def _coordinates(run: RunRecord) -> set[str]:
    """Return the names of the dataset's coordinates; empty if the dataset is missing."""
    from pathlib import Path

    from hpcsamp.data.manifest import read_manifest
    from hpcsamp.errors import HpcsampError

    try:
        return set(read_manifest(Path(run.setting("data", "path", default=""))).coords)
    except HpcsampError:
        return set()


def _map(
    fig: Figure,
    axes: Axes,
    longitude: np.ndarray,
    latitude: np.ndarray,
    values: np.ndarray,
    look: dict[str, Any],
    unit: str,
) -> None:
    from matplotlib.ticker import MultipleLocator

    drawn = axes.pcolormesh(longitude, latitude, values, shading="nearest", rasterized=True, **look)
    axes.grid(visible=False)
    axes.xaxis.set_major_locator(MultipleLocator(90))
    axes.yaxis.set_major_locator(MultipleLocator(45))
    axes.tick_params(labelsize=7.5)
    bar = fig.colorbar(drawn, ax=axes, shrink=0.85, pad=0.02, aspect=16)
    bar.ax.tick_params(labelsize=7.5)
    bar.outline.set_linewidth(0.5)
    if unit:
        bar.set_label(unit, fontsize=8)


def _variables(f: Any) -> tuple[list[str], list[tuple[int, ...]]]:
    """Return the names of the variables to show and the indices of their fields within an item."""
    if f["mean"].ndim == 3:
        return ["value"], [()]
    scale = f["mean"].dims[1][0]
    text = scale.dtype.kind == "O"
    known = [str(v) for v in (scale.asstr()[:] if text else scale[:])]
    names = [name for name in USUAL if name in known] or known[:SHOWN]
    return names, [(known.index(name),) for name in names]


def _time(f: Any, row: int) -> str:
    if "time" not in f:
        return ""
    return f" ({f['time'][row]:g} {f['time'].attrs.get('units', '')})"
