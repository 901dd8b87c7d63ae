"""Learning curves: the training loss and its terms over steps, validation metrics over epochs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from hpcsamp.report import style
from hpcsamp.report.records import RunRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D


@dataclass(frozen=True)
class Panel:
    """One panel of the figure: validation metrics that share a unit."""

    title: str
    label: str
    keys: tuple[str, ...]
    level: float | None = None  # ideal value of the metric


PANELS = (
    Panel("Validation NLL", "nats per item", ("nll",)),
    Panel("Validation accuracy", "fraction of items", ("accuracy",)),
    Panel("Validation calibration error", "|confidence − accuracy|", ("ece", "mace")),
    Panel("Validation error", "units of the target", ("rmse", "mae")),
    Panel("Coverage of 90 % intervals", "fraction of values", ("coverage_90",), level=0.9),
)
_LINES: Final = ("-", "--")
_NAMES = {
    "ece": "ECE",
    "mace": "MACE (bin-unweighted)",
    "rmse": "RMSE",
    "mae": "MAE",
}
#: Number of training steps above which a running mean is drawn over the single values.
SMOOTH_FROM = 80


def learning_curves(runs: Sequence[RunRecord]) -> Figure:
    """Draw the learning curves of one run, or of several runs in the same panels.

    For one run the loss is shown with its terms, for several runs the loss only.
    """
    known = [*PANELS, *(_of_target(p, name) for name in _targets(runs) for p in PANELS)]
    panels = [p for p in known if any(r.series("valid", k)[0].size for r in runs for k in p.keys)]
    trained = any(r.series("train", "loss")[0].size for r in runs)
    count = len(panels) + trained
    fig = style.figure(style.WIDTH, 0.7 + 2.7 * count)
    grid = list(np.ravel(fig.subplots(count, 1, squeeze=False)))
    if trained:
        (_parts if len(runs) == 1 else _losses)(grid[0], runs)
    for axes, panel in zip(grid[trained:], panels, strict=False):
        _metric(axes, panel, runs)
    if len(runs) == 1:
        style.heading(fig, runs[0].title)
    else:
        style.heading(fig, f"Learning curves of {len(runs)} runs")
        fig.legend(handles=_run_handles(runs), loc="outside lower center", ncols=1)
    return fig


def _targets(runs: Sequence[RunRecord]) -> list[str]:
    """Return the names of the targets of runs with several targets."""
    return list(dict.fromkeys(name for run in runs for name in run.kinds if name))


def _of_target(panel: Panel, name: str) -> Panel:
    keys = tuple(f"{name}/{key}" for key in panel.keys)
    return replace(panel, title=f"{panel.title}: {name}", keys=keys)


def smooth(values: np.ndarray, window: int) -> np.ndarray:
    """Return the centred running mean over ``window`` values, or fewer at the ends; same shape."""
    kernel = np.ones(window)
    total = np.convolve(values, kernel, "same")
    return total / np.convolve(np.ones_like(values), kernel, "same")


def _parts(axes: Axes, runs: Sequence[RunRecord]) -> None:
    """Draw the loss, the data term and the KL term of one run."""
    run = runs[0]
    penalty = "KL term" if run.temperature == 1 else f"{run.temperature:g} × KL term"
    parts = [
        ("loss", "loss", style.INK, "-"),
        ("data", "data term", style.BLUE, "--"),
        ("penalty", penalty, style.ORANGE, "-."),
    ]
    drawn = []
    for key, label, colour, line in parts:
        steps, values = run.series("train", key)
        if steps.size and (key != "penalty" or np.nanmax(np.abs(values), initial=0) > 0):
            _noisy(axes, steps, values, colour, line, label)
            drawn.append(values)
    style.legend(axes)
    _loss_axes(axes, drawn)


def _losses(axes: Axes, runs: Sequence[RunRecord]) -> None:
    drawn = []
    for i, run in enumerate(runs):
        steps, values = run.series("train", "loss")
        _noisy(axes, steps, values, style.RUNS[i % len(style.RUNS)], "-", run.name)
        drawn.append(values)
    _loss_axes(axes, drawn)


def _run_handles(runs: Sequence[RunRecord]) -> list[Line2D]:
    """Draw a legend with one entry per run, with its caveats."""
    from matplotlib.lines import Line2D

    return [
        Line2D(
            [],
            [],
            color=style.RUNS[i % len(style.RUNS)],
            marker=style.MARKERS[i % len(style.MARKERS)],
            label=", ".join([run.name, *run.caveats]),
        )
        for i, run in enumerate(runs)
    ]


def _noisy(
    axes: Axes, steps: np.ndarray, values: np.ndarray, colour: str, line: str, label: str
) -> None:
    """Draw single values, and their running mean if there are many."""
    if len(values) < SMOOTH_FROM:
        axes.plot(steps, values, line, color=colour, label=label)
        return
    axes.plot(steps, values, color=colour, alpha=0.25, linewidth=0.8)
    axes.plot(steps, smooth(values, len(values) // 25), line, color=colour, label=label)


def _loss_axes(axes: Axes, drawn: Sequence[np.ndarray]) -> None:
    every = np.concatenate(drawn)
    every = every[np.isfinite(every)]
    if every.size and every.min() > 0 and every.max() > 30 * every.min():
        axes.set_yscale("log")
    axes.set(title="Training loss", xlabel="step", ylabel="nats per item")
    style.integer_steps(axes)


def _metric(axes: Axes, panel: Panel, runs: Sequence[RunRecord]) -> None:
    """Draw one validation metric over epochs, or two with the same unit."""
    for i, run in enumerate(runs):
        for key, line in zip(panel.keys, _LINES, strict=False):
            epochs, values = run.series("valid", key, axis="epoch")
            of = f"{run.name} {_NAMES.get(key.rpartition('/')[2], '')}".rstrip()
            colour = style.RUNS[i % len(style.RUNS)]
            axes.plot(
                epochs,
                values,
                line,
                color=colour if len(runs) > 1 or key == panel.keys[0] else style.ORANGE,
                marker=style.MARKERS[i % len(style.MARKERS)] if len(epochs) <= 40 else None,
                gid=of,  # names the curve in the alternative text
            )
    if panel.level is not None:
        axes.axhline(panel.level, color=style.GREY, linewidth=1, linestyle=":")
        axes.annotate(
            "nominal", (0.01, panel.level), xycoords=("axes fraction", "data"), ha="left",
            va="bottom", fontsize=8.5, color=style.GREY,
        )  # fmt: skip
    if len(panel.keys) > 1:
        colours = [style.BLUE, style.ORANGE] if len(runs) == 1 else [style.GREY, style.GREY]
        for key, line, colour in zip(panel.keys, _LINES, colours, strict=True):
            axes.plot([], [], line, color=colour, label=_NAMES[key.rpartition("/")[2]])
        style.legend(axes)
    axes.set(title=panel.title, xlabel="epoch", ylabel=panel.label)
    style.integer_steps(axes)
