"""Figures 5 to 8: validation metrics over epochs or over training time, by strategy and batch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from hpcsamp.report import style
from hpcsamp.report.figures.scaling import COLOURS
from hpcsamp.report.figures.sources import strategy
from hpcsamp.report.records import MissingMaterialError, RunRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LABELS = {"accuracy": "validation accuracy", "nll": "validation NLL (nats per item)"}
LINES = ("-", "--", ":", "-.")
K = TypeVar("K", str, tuple[str, int])


def ranks_of(run: RunRecord) -> tuple[str, int]:
    """Return the strategy and the number of ranks of a run, from its summary."""
    s = run.summary
    if "world_size" not in s:
        raise MissingMaterialError(f"{run.path} has no summary.json yet")
    return strategy(s["sample_group_size"], s["data_group_size"]), int(s["world_size"])


def batch_of(run: RunRecord) -> int:
    """Return the global batch of a run: items per step over all data groups."""
    return int(run.setting("data", "batch", default=64))


def by_batch(runs: Sequence[RunRecord], metric: str, over: str, title: str) -> Figure:
    """Draw a panel per global batch; colours are strategies, line styles are numbers of ranks.

    Figures 5 and 7.
    """
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


def by_share(runs: Sequence[RunRecord], metric: str, over: str, title: str) -> Figure:
    """Draw one panel with a curve for each kind of augmentation (Figure 6)."""
    kinds = {
        "all": ("the same view for all samples", style.BLUE),
        "rank": ("a view for each rank", style.ORANGE),
        "sample": ("a view for each sample", style.GREEN),
    }
    fig = style.figure(6.4, 3.9)
    axes = fig.subplots()
    for share, several in _together(runs, _share).items():
        label, colour = kinds[share]
        line = LINES[list(kinds).index(share)]
        _draw(axes, several, metric, over, colour, line, _of(label, several))
    axes.set(ylabel=LABELS[metric])
    axes.legend()
    style.heading(fig, title)
    return fig


def by_strategy(runs: Sequence[RunRecord], metric: str, over: str, title: str) -> Figure:
    """Draw one panel; colours are global batches, line styles are strategies (Figure 8)."""
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


def _of(label: str, runs: Sequence[RunRecord]) -> str:
    return f"{label}, mean of {len(runs)} seeds" if len(runs) > 1 else label


def _share(run: RunRecord) -> str:
    return str(run.setting("augment", "share", default="sample"))


def _together(runs: Sequence[RunRecord], key: Callable[[RunRecord], K]) -> dict[K, list[RunRecord]]:
    """Group runs that differ only in their seeds."""
    groups: dict[K, list[RunRecord]] = defaultdict(list)
    for run in runs:
        groups[key(run)].append(run)
    return dict(sorted(groups.items(), key=lambda item: item[0]))


def series(run: RunRecord, metric: str, over: str) -> tuple[np.ndarray, np.ndarray]:
    """Return a validation metric over ``"epoch"``, or over ``"time"``, in seconds of training.

    The time is the number of steps times their median duration, without evaluations and
    checkpoints.
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
    runs: Sequence[RunRecord],
    metric: str,
    over: str,
    colour: str,
    line: str,
    label: str,
) -> None:
    """Draw the mean over seeds, and their range as a band if there are several."""
    drawn = [series(run, metric, over) for run in runs]
    length = min(len(x) for x, _ in drawn)
    if not length:
        raise MissingMaterialError(f"{runs[0].path} has no validation with the metric {metric}")
    x = np.mean([x[:length] for x, _ in drawn], axis=0)
    y = np.array([y[:length] for _, y in drawn])
    above = 2 + LINES.index(line) / len(LINES)  # broken lines on top, so that both can be seen
    axes.plot(x, y.mean(0), line, color=colour, label=label, zorder=above)
    if len(drawn) > 1:
        axes.fill_between(x, y.min(0), y.max(0), color=colour, alpha=0.15, linewidth=0)
    if over == "epoch":
        style.integer_steps(axes)
    axes.set_xlabel("epoch" if over == "epoch" else "training time (s)")


def _caveat(runs: Sequence[RunRecord]) -> str:
    shares = {_share(r) for r in runs}
    if shares == {"rank"}:
        return "augmentation per rank, as in the paper: equal sample groups give equal curves"
    if shares == {"sample"}:
        return "augmentation per sample: results do not depend on the grid, curves may coincide"
    return ""
