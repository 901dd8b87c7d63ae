"""``hpcsamp report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hpcsamp.cli.options import AcceptEdits


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN", help="Run folder, several are compared; or a campaign."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="Where to draw (default: RUN/report; needed to compare runs)."),
    ] = None,
    split: Annotated[str, typer.Option(help="Which evaluation to show.")] = "test",
    items: Annotated[
        int, typer.Option(min=1, help="How many of the most uncertain items to show.")
    ] = 24,
    figure: Annotated[
        str | None,
        typer.Option(help="A figure of the paper instead: 4 to 10, or table1."),
    ] = None,
    accept_edits: AcceptEdits = False,
) -> None:
    """Draw learning curves, calibration and the most uncertain items of a run, with a page.

    Several runs share one page: their learning curves are laid over each other and their metrics
    stand side by side. What a run does not have yet is left out, with a line that says so.

    With --figure, or for a campaign file that is named after one, a figure of the paper is drawn
    from runs, campaigns, or records of hpcsamp bench scaling.
    """
    from hpcsamp.errors import UsageError
    from hpcsamp.report import build, figures

    figure = figure or figures.figure_of(runs)
    if figure is not None:
        for path in figures.draw(figure, runs, out or Path("report")):
            typer.echo(path.read_text() if path.suffix == ".md" else f"drew {path}")
        return

    if out is None and len(runs) > 1:
        raise UsageError("several runs are compared: say where to draw with --out DIR")
    made = build(runs, out or runs[0] / "report", split=split, items=items)
    for line in made.notes:
        typer.echo(f"left out: {line}")
    for picture in made.pictures:
        typer.echo(f"drew {picture}")
    typer.echo(f"page {made.page}")
