"""``hpcsamp report``: write a page about one or several runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hpcsamp.cli.options import AcceptEdits, Quiet

if TYPE_CHECKING:
    from hpcsamp.report import ReportFiles


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN", help="One run folder, several to compare, or a campaign file."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="Output folder (default: RUN/report; required for several runs)."),
    ] = None,
    split: Annotated[str, typer.Option(help="Split whose evaluation is shown.")] = "test",
    items: Annotated[
        int, typer.Option(min=1, help="Number of the most uncertain items to show.")
    ] = 24,
    figure: Annotated[
        str | None,
        typer.Option(
            help="Draw a figure of the paper instead: 4 to 10, table1, or mixer (model ranks)."
        ),
    ] = None,
    mixture: Annotated[
        Path | None,
        typer.Option(
            help="Add the mixture of the runs: FILE of hpcsamp evaluate RUN RUN... --json FILE."
        ),
    ] = None,
    single_file: Annotated[
        bool, typer.Option("--single-file", help="Embed the figures, so that the page is one file.")
    ] = False,
    scorecard: Annotated[
        bool,
        typer.Option(
            "--scorecard",
            help="Show scores of forecasts by lead time instead, of one run, or of a second run "
            "against the first (default of --out: scorecard in the last run's folder).",
        ),
    ] = False,
    item: Annotated[int, typer.Option(min=0, help="Item of the maps of a scorecard, from 0.")] = 0,
    lead: Annotated[
        int | None,
        typer.Option(min=1, help="Lead time of these maps in steps (default: the last observed)."),
    ] = None,
    quiet: Quiet = False,
    accept_edits: AcceptEdits = False,
) -> None:
    """Write a page with the learning curves, calibration and most uncertain items of a run.

    Several runs share one page: their learning curves are drawn in the same axes and their metrics
    are listed side by side, with --mixture also those of their mixture. Results that a run does not
    have yet are left out and listed.

    With --figure, or for a campaign file named after a figure, a figure of the paper is drawn from
    runs, campaigns, or records of hpcsamp bench scaling.

    With --scorecard, the scores that hpcsamp predict --rollout --scores has kept are drawn.

    Examples:

        hpcsamp report runs/a

        hpcsamp report runs/a runs/b --out comparison
    """
    from hpcsamp.errors import UsageError
    from hpcsamp.report import build, figures

    if scorecard:
        from hpcsamp.report.scorecard.build import scorecard as draw

        if figure is not None:
            raise UsageError(f"--scorecard and --figure {figure} are different reports: choose one")
        _show(
            draw(
                runs, out or runs[-1] / "scorecard", split=split, item=item, lead=lead,
                single_file=single_file,
            ),
            quiet,
        )  # fmt: skip
        return
    if mixture is not None and (figure is not None or scorecard):
        raise UsageError("--mixture belongs to the page of several runs, without --figure")
    if item or lead is not None:
        raise UsageError("--item and --lead choose the maps of a scorecard: add --scorecard")
    figure = figure or figures.figure_of(runs)
    if figure is not None:
        for path in figures.draw(figure, runs, out or Path("report")):
            typer.echo(path.read_text() if path.suffix == ".md" else f"drew {path}")
        return

    if out is None and len(runs) > 1:
        raise UsageError("comparing several runs needs an output folder: add --out DIR")
    if mixture is not None and len(runs) < 2:
        raise UsageError("--mixture takes several runs, those of the mixture")
    made = build(
        runs, out or runs[0] / "report", split=split, items=items, single_file=single_file,
        mixture=mixture,
    )  # fmt: skip
    _show(made, quiet)


def _show(made: ReportFiles, quiet: bool) -> None:
    """Print what was left out and drawn, and the page."""
    if not quiet:
        for line in made.notes:
            typer.echo(f"left out: {line}")
        for picture in made.pictures:
            typer.echo(f"drew {picture}")
    typer.echo(f"page {made.page}")
