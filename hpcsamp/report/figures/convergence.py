"""Figures 5 to 8: validation metrics over epochs or over training time, by strategy and batch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from hpcsamp.report import style
from hpcsamp.report.figures.scaling import COLOURS
from hpcsamp.report.figures.sources import strategy
from hpcsamp.report.records import MissingMaterialError, Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LABELS = {"accuracy": "validation accuracy", "nll": "validation NLL (nats per item)"}
LINES = ("-", "--", ":", "-.")
K = TypeVar("K", str, tuple[str, int])


def ranks_of(run: Run) -> tuple[str, int]:
    """Strategy and number of ranks, from the summary."""
    s = run.summary
    if "world_size" not in s:
        raise MissingMaterialError(f"{run.path} has no summary.json yet")
    return strategy(s["sample_group_size"], s["data_group_size"]), int(s["world_size"])


def batch_of(run: Run) -> int:
    """Items of a step over all data groups."""
    return int(run.setting("data", "batch", default=64))


def by_batch(runs: Sequence[Run], metric: str, over: str, title: str) -> Figure:
    """A panel per global batch; colours are strategies, lines numbers of ranks (Figures 5, 7)."""
    batches = sorted({batch_of(r) for r in runs})
    fig = style.figure(4.9 * min(2, len(batches)), 3.6 * -(-len(batches) // 2) + 0.8)
    rows = -(-len(batches) // 2)
    grid = list(np.ravel(fig.subplots(rows, min(2, len(batches)), squeeze=False, sharey=True)))
    sizes = sorted({ranks_of(r)[1] for r in runs})
    for axes, batch in zip(grid, batches, strict=False):
        own = [r for r in runs if batch_of(r) == batch]
        for (name, count), several in _together(own, ranks_of).items():
            line = LINES[sizes.index(count) % len(LINES)]
            label = name if count == 1 else f"{name}, {count} ranks"
            _draw(axes, several, metric, over, COLOURS.get(name, style.INK), line, label)
        axes.set(title=f"global batch {batch}", ylabel=LABELS[metric])
        axes.legend()
    for unused in grid[len(batches) :]:
        unused.remove()
    style.heading(fig, title, _caveat(runs))
    return fig


def by_share(runs: Sequence[Run], metric: str, over: str, title: str) -> Figure:
    """One panel; a curve per way to augment (Figure 6)."""
    said = {
        "all": ("the same view for all samples", style.BLUE),
        "rank": ("every rank views of its own", style.ORANGE),
        "sample": ("every sample views of its own", style.GREEN),
    }
    fig = style.figure(6.4, 3.9)
    axes = fig.subplots()
    for share, several in _together(runs, _share).items():
        label, colour = said[share]
        line = LINES[list(said).index(share)]
        _draw(axes, several, metric, over, colour, line, _of(label, several))
    axes.set(ylabel=LABELS[metric])
    axes.legend()
    style.heading(fig, title)
    return fig


def by_strategy(runs: Sequence[Run], metric: str, over: str, title: str) -> Figure:
    """One panel; colours are global batches, lines strategies (Figure 8)."""
    fig = style.figure(6.4, 4.2)
    axes = fig.subplots()
    batches = sorted({batch_of(r) for r in runs})
    names = sorted({ranks_of(r)[0] for r in runs}, reverse=True)
    for (name, batch), several in _together(runs, lambda r: (ranks_of(r)[0], batch_of(r))).items():
        colour = style.RUNS[batches.index(batch) % len(style.RUNS)]
        line = LINES[names.index(name) % len(LINES)]
        _draw(axes, several, metric, over, colour, line, f"{name}, batch {batch}")
    axes.set(ylabel=LABELS[metric])
    axes.legend(ncols=2)
    style.heading(fig, title, _caveat(runs))
    return fig


def _of(label: str, runs: Sequence[Run]) -> str:
    return f"{label}, mean of {len(runs)} seeds" if len(runs) > 1 else label


def _share(run: Run) -> str:
    return str(run.setting("augment", "share", default="sample"))


def _together(runs: Sequence[Run], key: Callable[[Run], K]) -> dict[K, list[Run]]:
    """Runs that differ in their seeds alone."""
    found: dict[K, list[Run]] = defaultdict(list)
    for run in runs:
        found[key(run)].append(run)
    return dict(sorted(found.items(), key=lambda item: item[0]))


def series(run: Run, metric: str, over: str) -> tuple[np.ndarray, np.ndarray]:
    """A metric over ``"epoch"``, or over ``"time"``: seconds of the training steps until then.

    Evaluations and checkpoints are not in that time; it is steps times their median.
    """
    if over == "epoch":
        return run.series("valid", metric, "epoch")
    step = run.summary.get("seconds_per_step")
    if step is None:
        raise MissingMaterialError(f"{run.path} has no summary.json with seconds_per_step")
    steps, values = run.series("valid", metric, "step")
    return steps * step, values


def _draw(
    axes: Axes,
    runs: Sequence[Run],
    metric: str,
    over: str,
    colour: str,
    line: str,
    label: str,
) -> None:
    """The mean over seeds, and their range as a band where there are several."""
    drawn = [series(run, metric, over) for run in runs]
    length = min(len(x) for x, _ in drawn)
    if not length:
        raise MissingMaterialError(f"{runs[0].path} has no {metric} of a validation")
    x = np.mean([x[:length] for x, _ in drawn], axis=0)
    y = np.array([y[:length] for _, y in drawn])
    above = 2 + LINES.index(line) / len(LINES)  # broken lines do not hide what lies below
    axes.plot(x, y.mean(0), line, color=colour, label=label, zorder=above)
    if len(drawn) > 1:
        axes.fill_between(x, y.min(0), y.max(0), color=colour, alpha=0.15, linewidth=0)
    if over == "epoch":
        style.integer_steps(axes)
    axes.set_xlabel("epoch" if over == "epoch" else "training time (s)")


def _caveat(runs: Sequence[Run]) -> str:
    shares = {_share(r) for r in runs}
    if shares == {"rank"}:
        return "augmentation per rank, as in the paper: equal sample groups give equal curves"
    if shares == {"sample"}:
        return "augmentation per sample: results do not depend on the grid, curves may coincide"
    return ""
