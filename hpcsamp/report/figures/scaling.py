"""Figures 4, 9 and 10, and that of model ranks: strong scaling (speed-up), weak (efficiency).

``S(p) = T1(n) / Tp(n)`` and ``E(p) = T1(n) / Tp(n p)`` (section 6 of the paper), where ``T`` is the
time of an epoch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hpcsamp.report import style
from hpcsamp.report.records import MissingMaterialError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {
    "sampling": style.BLUE, "data": style.ORANGE, "hybrid": style.GREEN, "model": style.PINK,
}  # fmt: skip
MARKS = {"sampling": "o", "data": "s", "hybrid": "^", "model": "D"}
LINES = {1: "-", 2: "--", 4: "-."}
"""Line styles by number of model ranks, used if records of several M are drawn together."""

JIGSAW = {1: (0.66, 0.51), 2: (0.90, 0.68), 4: (0.94, 0.72)}
"""Published weak-scaling efficiencies of WeatherMixer on M model ranks, with 8 and 256 A100 GPUs.

Source: Kieckhefen et al. 2025 (arXiv 2507.05753). Its replicas split the data, not the samples.
"""

JIGSAW_RANKS = (8, 256)


@dataclass(frozen=True)
class Curve:
    """One curve of a figure.

    Attributes
    ----------
    grid, mode
        Kind of grid and mode of the records.
    ranks, values
        Numbers of ranks p, beginning with one rank, and the speed-up or efficiency at each.
    low, high
        Range of the values over rounds.
    model_size
        Number of model ranks M of each point but the first.
    """

    grid: str
    mode: str
    ranks: tuple[int, ...]
    values: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    model_size: int = 1

    @property
    def label(self) -> str:
        """Name of the grid, with M if there are several model ranks."""
        return self.grid if self.model_size == 1 else f"{self.grid}, M = {self.model_size}"


def curves(records: Sequence[dict[str, Any]]) -> list[Curve]:
    """Compute the curves of all grids and modes of one workload from its records.

    Raises
    ------
    MissingMaterialError
        If there is no record of one rank, or none of several ranks.
    """
    alone = [r for r in records if r["world_size"] == 1]
    if not alone:
        raise MissingMaterialError("there is no record of one rank, the baseline of all others")
    found = []
    for mode in ("fixed", "fixed-growing-batch", "proportional"):
        for m, grid in _kinds(records):
            points: dict[int, tuple[float, float, float]] = {}
            for r in records:
                if (_model_size(r), r["grid"]) != (m, grid):
                    continue
                base = _base(r, alone, mode)
                if base is not None:
                    points[r["world_size"]] = _measure(base, r, mode)
            if points:
                at = sorted(points)
                middle, low, high = zip(*(points[p] for p in at), strict=True)
                ones = (1.0,)
                found.append(Curve(grid, mode, (1, *at), ones + middle, ones + low, ones + high, m))
    if not found:
        raise MissingMaterialError("there is no record of more than one rank")
    return found


def _model_size(r: dict[str, Any]) -> int:
    return int(r.get("model_group_size", 1))  # records of earlier versions have no such key


def _kinds(records: Sequence[dict[str, Any]]) -> list[tuple[int, str]]:
    """Return the number of model ranks M and the grid of each curve, in the order of the legend."""
    return [(m, grid) for m in sorted({_model_size(r) for r in records}) for grid in COLOURS]


def _base(r: dict[str, Any], alone: Sequence[dict[str, Any]], mode: str) -> dict[str, Any] | None:
    """Return the one-rank record that is the baseline of a record in a mode, or None."""
    if r.get("mode") and r["mode"] != mode:
        return None
    p = r["world_size"]
    wanted = {
        "fixed": (r["samples"], r["batch"]),
        "fixed-growing-batch": (r["samples"], r["batch"] / p),
        "proportional": (r["samples"] / p, r["batch"]),
    }[mode]
    fitting = [a for a in alone if (a["samples"], a["batch"]) == wanted]
    same = [a for a in fitting if a.get("mode") == r.get("mode")]
    return next(iter(same or fitting), None)


def _measure(base: dict[str, Any], r: dict[str, Any], mode: str) -> tuple[float, float, float]:
    work = 1.0 if mode == "proportional" else r["batch"] / base["batch"]
    middle = work * base["seconds_per_step"] / r["seconds_per_step"]
    if len(base["rounds"]) == len(r["rounds"]) and base.get("command") == r.get("command"):
        ratios = [work * a / b for a, b in zip(base["rounds"], r["rounds"], strict=True)]
        return sorted(ratios)[len(ratios) // 2], min(ratios), max(ratios)
    low, high = (work * base["seconds_per_step"] / t for t in reversed(r["spread"]))
    return middle, low, high


def scaling(records: Sequence[dict[str, Any]], title: str, published: bool = False) -> Figure:
    """Draw speed-up and efficiency with their ideal curves; a panel without records is left out.

    Parameters
    ----------
    records
        Records of one workload.
    title
        Heading of the figure.
    published
        Whether to also draw the published efficiencies of Jigsaw.
    """
    found = curves(records)
    speed = [c for c in found if c.mode != "proportional"]
    efficient = [c for c in found if c.mode == "proportional"]
    rows = bool(speed) + bool(efficient)
    fig = style.figure(6.4, 3.4 * rows + 0.5)
    axes = list(fig.subplots(rows, 1, squeeze=False)[:, 0])
    if speed:
        _speed_up(axes[0], speed)
    if efficient:
        _efficiency(axes[-1], efficient, published)
    first = records[0]
    gpu = first.get("machine", {}).get("gpu")
    place = gpu or first.get("machine", {}).get("cpu", "")
    style.heading(fig, title, place)
    return fig


def _speed_up(axes: Axes, found: Sequence[Curve]) -> None:
    ranks = sorted({p for c in found for p in c.ranks})
    axes.plot(ranks, ranks, "--", color=style.GREY, linewidth=1, label="ideal")
    batches = {"fixed": "same global batch", "fixed-growing-batch": "batch grows with ranks"}
    for c in found:
        several = any(d.model_size > 1 for d in found)
        line = LINES.get(c.model_size, ":") if several else ":" if c.mode == "fixed" else "-"
        _line(axes, c, f"{c.label}, {batches[c.mode]}", line)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set(title="Speed-up, S fixed", xlabel="ranks", ylabel="T₁(n) / Tₚ(n)")
    _whole(axes, ranks)
    _plain_numbers(axes)
    axes.legend()


def _efficiency(axes: Axes, found: Sequence[Curve], published: bool) -> None:
    ranks = sorted({p for c in found for p in c.ranks} | set(JIGSAW_RANKS if published else ()))
    axes.axhline(1, color=style.GREY, linewidth=1, linestyle="--", label="ideal")
    for c in found:
        _line(axes, c, c.label, LINES.get(c.model_size, ":"))
    for m, values in JIGSAW.items() if published else ():
        axes.plot(
            JIGSAW_RANKS, values, LINES[m], marker="x", color=style.GREY,
            label=f"Jigsaw, {m}-way, data parallel (published, A100)",
        )  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set(title="Efficiency, S grows with the ranks", xlabel="ranks", ylabel="T₁(n) / Tₚ(n·p)")
    axes.set_ylim(0, max(1.1, *(max(c.high) for c in found)) * 1.02)
    _whole(axes, ranks)
    axes.legend(loc="lower left")


def _line(axes: Axes, c: Curve, label: str, line: str) -> None:
    colour = COLOURS[c.grid]
    below = [max(0.0, v - lo) for v, lo in zip(c.values, c.low, strict=True)]
    above = [max(0.0, hi - v) for v, hi in zip(c.values, c.high, strict=True)]
    axes.errorbar(
        c.ranks, c.values, yerr=[below, above], color=colour, marker=MARKS[c.grid], linestyle=line,
        capsize=2, elinewidth=0.8, label=label,
    )  # fmt: skip


def _whole(axes: Axes, ranks: Sequence[int]) -> None:
    from matplotlib.ticker import NullLocator

    axes.set_xticks(list(ranks), [str(p) for p in ranks])
    axes.xaxis.set_minor_locator(NullLocator())


def _plain_numbers(axes: Axes) -> None:
    from matplotlib.ticker import FuncFormatter

    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
