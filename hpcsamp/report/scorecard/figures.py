"""Figures of a scorecard."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hpcsamp.errors import HpcsampError
from hpcsamp.report import style
from hpcsamp.report.maps import SHOWN, USUAL, Fields, draw_fields
from hpcsamp.report.records import MissingMaterialError
from hpcsamp.report.scorecard.scores import Forecast, state_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Largest number of lead times for which percentages are written into the cells of a table.
NAMED = 10


def shown(variables: Sequence[str]) -> list[str]:
    """Return the variables of curves, histograms and maps: the usual ones, or the first ones."""
    return [name for name in USUAL if name in variables] or list(variables[:SHOWN])


def skill_table(of: Forecast, values: np.ndarray, title: str) -> Figure:
    """Draw the relative skill ``(L, V)`` as a table of variables and lead times.

    Raises
    ------
    MissingMaterialError
        If nothing was observed.
    """
    known = np.isfinite(values)
    if not known.any():
        raise MissingMaterialError("no lead time is observed within the split")
    names, leads = of.variables, of.leads
    fig = style.figure(style.WIDTH, max(2.4, 0.21 * len(names) + 1.7))
    axes = fig.subplots()
    size = max(float(np.percentile(abs(values[known]), 98)), 0.01)
    drawn = axes.imshow(
        100 * values.T, cmap="RdBu", vmin=-100 * size, vmax=100 * size, aspect="auto"
    )
    axes.grid(visible=False)
    axes.set_facecolor(style.PALE)
    every = max(1, len(leads) // 10)
    axes.set_xticks(range(0, len(leads), every), [f"{x:g}" for x in leads[::every]])
    axes.set_yticks(range(len(names)), names, fontsize=8 if len(names) < 30 else 6.5)
    axes.set_xlabel(f"lead time / {of.scores['lead_unit']}")
    if len(leads) <= NAMED:
        for k, v in zip(*np.nonzero(known), strict=True):
            strong = abs(values[k, v]) > 0.6 * size
            axes.text(k, v, f"{100 * values[k, v]:.0f}", ha="center", va="center", fontsize=6.5,
                      color="white" if strong else style.INK)  # fmt: skip
    bar = fig.colorbar(drawn, ax=axes, pad=0.02, aspect=30)
    bar.ax.tick_params(labelsize=8)
    bar.set_label("relative skill / %", fontsize=8)
    better = int((values[known] > 0).sum())
    style.heading(fig, title, f"{of.split}: better in {better} of {int(known.sum())} cells")
    return fig


def lead_curves(forecasts: Sequence[Forecast], variable: str) -> Figure:
    """Draw RMSE and spread, CRPS and ACC of a variable over lead times, with bands."""
    first = forecasts[0]
    v = first.variables.index(variable)
    unit = first.scores["units"][v] or "units of the data"
    fig = style.figure(style.WIDTH, 2.1 * style.HEIGHT)
    upper, middle, lower = fig.subplots(3, 1, sharex=True, height_ratios=[1.4, 1, 1])
    alone = len(forecasts) == 1
    for colour, of in zip(style.RUNS, forecasts, strict=False):
        start = "" if alone else f"{of.run.name}: "
        for axes, name, label, line in (
            (upper, "rmse", "RMSE", "-"),
            (upper, "spread", "spread", "--"),
            (middle, "crps_fair", "fair CRPS", "-"),
            (lower, "acc", "ACC", "-"),
        ):
            value, error = of.of(name)[:, v], 2 * of.error(name)[:, v]
            axes.plot(of.leads, value, line, color=colour, marker="o", label=start + label)
            axes.fill_between(of.leads, value - error, value + error, color=colour, alpha=0.15,
                              linewidth=0)  # fmt: skip
    for name, colour in (("persistence", style.GREY), ("climatology", style.INK)):
        for axes, kind in ((upper, "rmse"), (middle, "mae")):
            axes.plot(first.leads, first.of(f"{kind}_{name}")[:, v], ":", color=colour, label=name)
    for axes in (upper, middle):
        axes.set_ylim(bottom=0)
    upper.set(title="RMSE of the mean, and spread", ylabel=unit)
    middle.set(title="Fair CRPS", ylabel=unit)
    lower.set(title="Anomaly correlation", ylabel="ACC")
    lower.set_xlabel(f"lead time / {first.scores['lead_unit']}")
    fig.legend(*upper.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    style.heading(fig, f"{variable}, {first.split}, {first.table['items']} initial states")
    return fig


def rank_histograms(of: Forecast) -> Figure:
    """Draw the rank histograms of some variables at the first, a middle and the last lead time.

    Raises
    ------
    MissingMaterialError
        If nothing was observed.
    """
    ranks = of.of("rank_histogram")
    seen = np.flatnonzero(np.isfinite(ranks).all((1, 2)))
    if not len(seen):
        raise MissingMaterialError("no lead time is observed within the split")
    leads = sorted({seen[0], seen[len(seen) // 2], seen[-1]})
    names = shown(of.variables)
    fig = style.figure(style.WIDTH, 1.5 * len(names) + 1.2)
    grid = fig.subplots(len(names), len(leads), squeeze=False, sharex=True, sharey="row")
    places = np.arange(ranks.shape[-1])
    for line, name in zip(grid, names, strict=True):
        for axes, k in zip(line, leads, strict=True):
            share = ranks[k, of.variables.index(name)]
            axes.bar(places, share * len(share), width=0.9, color=style.BLUE, alpha=0.65)
            axes.axhline(1, color=style.GREY, linewidth=1, linestyle="--")
            axes.grid(visible=False, axis="x")
            axes.set_title(f"{of.leads[k]:g} {of.scores['lead_unit']}", fontsize=9)
        line[0].set_title(f"{name}\n{of.leads[leads[0]]:g} {of.scores['lead_unit']}", fontsize=9)
        line[0].set_ylabel("density", fontsize=8.5)
    for axes in grid[-1]:
        axes.set_xlabel("members below", fontsize=8.5)
    style.heading(fig, of.run.title, f"{of.split}: 1 everywhere if calibrated")
    return fig


def forecast_maps(of: Forecast, item: int, lead: int | None) -> Figure:
    """Draw mean, observed state, error and spread of an item at a lead time.

    Parameters
    ----------
    lead
        Lead time in steps; None for the last one that is observed.

    Raises
    ------
    MissingMaterialError
        If the forecast or the dataset is no longer there, or the state is not observed.
    """
    from hpcsamp.data import Dataset
    from hpcsamp.run.rollout.clock import clock_of
    from hpcsamp.tasks.coordinates import read_coordinates

    try:
        with Dataset.open(Path(of.table["dataset"]), of.table["split"]) as dataset:
            if dataset.uid != of.table["dataset_uid"]:
                raise MissingMaterialError(f"{dataset.path} is no longer the set of the forecast")
            coordinates = read_coordinates(dataset)
            clock = clock_of(dataset.manifest, coordinates.per_item)
            steps = range(1, len(of.leads) + 1)
            later = {k: item if k == 1 else int(clock.item_at(k - 1)[item]) for k in steps}
            observed = [k for k, at in later.items() if at >= 0]
            lead = observed[-1] if lead is None else lead
            if lead not in observed:
                raise MissingMaterialError(f"item {item} is not observed after {lead} steps")
            target = np.asarray(dataset.read(np.asarray([later[lead]]))[1][0], float)
        states = state_of(Path(of.table["file"]), item, lead).astype(float)
    except HpcsampError as e:
        raise MissingMaterialError(str(e)) from e
    names = shown(of.variables)
    fields: list[Fields] = []
    for name in names:
        v = of.variables.index(name)
        members = states[:, v]
        fields.append({"mean": members.mean(0), "target": target[v], "std": members.std(0, ddof=1)})
    latitude, longitude = (np.asarray(a.values, float) for a in coordinates.axes[-2:])
    units = [of.scores["units"][of.variables.index(name)] for name in names]
    when = f"{of.leads[lead - 1]:g} {of.scores['lead_unit']}"
    return draw_fields(
        fields, names, units, latitude, longitude,
        (of.run.title, f"{of.split}, item {item} after {when}, {len(states)} members"),
    )  # fmt: skip
