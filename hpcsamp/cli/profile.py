"""Output of ``--profile``: the table of phases, and the location of the traces."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from hpcsamp.training.timeline import Timeline


def show_profile(timeline: Timeline, folder: Path) -> None:
    """Write traces to a folder and print the table of phases on rank 0. Collective."""
    from hpcsamp.cli.output import show
    from hpcsamp.training.timeline import STEPS, WARM, straggler

    topology = timeline.topology
    rows = timeline.write(folder)
    if not topology.is_root:
        return
    if not rows:
        typer.echo(f"no step was profiled: the first {WARM} steps are not recorded")
        return
    steps = len(timeline.seconds["other"])
    show(
        f"medians of {steps} steps of at most {STEPS}, milliseconds per step",
        ["phase", "median of ranks", "max", "on rank"],
        [
            [r["phase"], f"{1e3 * r['median']:.3g}", f"{1e3 * r['max']:.3g}", r["rank"]]
            for r in rows
        ],
        json_file=folder / "phases.json",
        data=rows,
    )
    found = straggler(rows, topology.size)
    typer.echo(found or "no rank is a straggler")
    typer.echo(f"timelines: {folder}/rank-*.json.gz, for chrome://tracing or Perfetto")
