"""``hpcsamp campaign collect``, ``best``, ``account``, ``report``, ``verify``: the results."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hpcsamp.cli.campaign_options import (
    SHOWN,
    All,
    Chosen,
    File,
    Json,
    Offline,
    OnePoint,
    SiteName,
    States,
    Where,
    cell,
    choose,
    load,
    look,
    or_elsewhere,
)
from hpcsamp.cli.options import RANKS, AcceptEdits

if TYPE_CHECKING:
    from hpcsamp.cli.output import Cell


def collect(
    campaign: File,
    site: SiteName = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Table to write: .csv, .parquet or .h5."),
    ] = None,
    offline: Offline = False,
    where: Where = None,
    point: Chosen = None,
    accept_edits: AcceptEdits = False,
) -> None:
    """Write the results of all finished points to one table; list the points without results.

    Examples:

        hpcsamp campaign collect sweep.toml

        hpcsamp campaign collect sweep.toml --where 'method.samples == 16' --out results.parquet
    """
    from hpcsamp.campaign import collect as collecting

    made = load(campaign, site)
    path = out or made.folder / "results.csv"
    with or_elsewhere():
        result = collecting.collect(made, not offline, choose(where, None, point))
    collecting.write(path, result)
    total = len(result.rows) + len(result.left_out)
    typer.echo(f"{len(result.rows)} rows of {total} points, written to {path}")
    for name, why in result.left_out.items():
        typer.echo(f"no result: {name}: {why}")


def best(
    campaign: File,
    metric: Annotated[
        str,
        typer.Argument(help="Column of the results table, e.g. valid.nll, or its last part: nll."),
    ],
    site: SiteName = None,
    highest: Annotated[
        bool | None,
        typer.Option(
            "--highest/--lowest", help="Which is better (default: by the name of the metric)."
        ),
    ] = None,
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="Number of points.")] = 1,
    folder: Annotated[
        bool, typer.Option("--folder", help="Print the folders of the points and nothing else.")
    ] = False,
    where: Where = None,
    point: Chosen = None,
    json_file: Json = None,
    accept_edits: AcceptEdits = False,
) -> None:
    """Show the finished points with the best value of a metric.

    If only the last part of a name is given, validation metrics are preferred, because the test
    metric of a point that was selected by its test metric is too optimistic.

    Examples:

        hpcsamp campaign best sweep.toml nll

        hpcsamp campaign best sweep.toml test.accuracy --count 5 --folder
    """
    from hpcsamp.campaign import best as ranking
    from hpcsamp.campaign import collect as collecting
    from hpcsamp.cli.output import show

    made = load(campaign, site)
    result = collecting.collect(made, False, choose(where, None, point))
    column, rows = ranking.best(result, metric, highest, count)
    if folder:
        typer.echo("\n".join(str(made.folder / "points" / str(row["folder"])) for row in rows))
        return
    axes = list(made.points[0].values)
    table: list[list[Cell]] = [
        [row["point"], row["folder"], *(cell(row.get(a)) for a in axes), row[column]]
        for row in rows
    ]
    show("", ["point", "folder", *axes, column], table, json_file)


def account(
    campaign: File,
    site: SiteName = None,
    every: All = False,
    offline: Offline = False,
    where: Where = None,
    state: States = None,
    point: Chosen = None,
    json_file: Json = None,
    accept_edits: AcceptEdits = False,
) -> None:
    """Show the core-hours, GPU-hours, memory and energy used by points, and suggest limits.

    The source is the scheduler's accounting (sacct) if available, or else records of the jobs.

    Examples:

        hpcsamp campaign account sweep.toml

        hpcsamp campaign account sweep.toml --state done --json account.json
    """
    from hpcsamp.campaign import account as accounting
    from hpcsamp.cli.output import show

    made = load(campaign, site)
    survey = look(made, not offline)
    chosen = choose(where, state, point).among(made, survey.points)
    with or_elsewhere():
        accounts = accounting.account(made, survey, chosen, not offline)
    rows: list[dict[str, Cell]] = [
        {
            "point": a.point.number,
            "folder": a.point.name,
            "state": a.status.word,
            "starts": a.starts,
            "hours": a.used.seconds / 3600,
            "of limit": f"{a.of_limit:.0%}",
            "core-hours": a.core_hours,
            "GPU-hours": a.gpu_hours or None,
            "CPU use": _share(a.used.cpu_seconds, a.core_hours * 3600),
            "MiB per rank": a.used.memory,
            "MiB per node requested": a.point.shape.memory or None,
            "kWh": None if a.used.joules is None else a.used.joules / 3.6e6,
            "source": a.source,
        }
        for a in accounts
    ]
    columns = [c for c in (rows[0] if rows else {}) if any(r[c] is not None for r in rows)]
    shown = rows if every else rows[:SHOWN]
    advice = accounting.advise(accounts)
    core_hours = sum(a.core_hours for a in accounts)
    asked = sum(a.starts * a.point.shape.core_hours for a in accounts)
    gpu_hours = sum(a.gpu_hours for a in accounts)
    joules = [a.used.joules for a in accounts if a.used.joules is not None]
    show(
        "",
        columns,
        [[r[c] for c in columns] for r in shown],
        json_file=json_file,
        data={
            "points": rows,
            "core_hours": core_hours,
            "core_hours_requested": asked,
            "gpu_hours": gpu_hours,
            "kwh": sum(joules) / 3.6e6 if joules else None,
            "advice": [
                {"resources": a.shape.describe(), "time": a.time, "memory": a.memory}
                for a in advice
            ],
        },
    )
    if len(shown) < len(rows):
        typer.echo(f"{len(rows) - len(shown)} points are not shown (--all shows them)")
    total = f"{len(rows)} points: {core_hours:.4g} core-hours of {asked:.4g} requested"
    total += f", {gpu_hours:.4g} GPU-hours" if gpu_hours else ""
    typer.echo(total + (f", {sum(joules) / 3.6e6:.4g} kWh" if joules else ""))
    for one in advice:
        memory = f', memory = "{one.memory}M"' if one.memory else ""
        typer.echo(
            f'next time: time = "{one.time}"{memory} for {one.shape.describe()} '
            f"({one.points} finished points)"
        )


def _share(part: float | None, whole: float) -> str | None:
    return None if part is None or not whole else f"{part / whole:.0%}"


def report(
    campaign: File,
    out: Annotated[
        Path | None, typer.Option("--out", help="Output folder (default: report in its folder).")
    ] = None,
    site: SiteName = None,
    metric: Annotated[
        str, typer.Option(help="Metric to plot against each key: a column of the results table.")
    ] = "nll",
    curves: Annotated[
        list[str] | None,
        typer.Option("--curves", help="Point whose learning curves are drawn (default: the best)."),
    ] = None,
    single_file: Annotated[
        bool, typer.Option("--single-file", help="Embed the figures, so that the page is one file.")
    ] = False,
    offline: Offline = False,
    where: Where = None,
    state: States = None,
    point: Chosen = None,
    accept_edits: AcceptEdits = False,
) -> None:
    """Write a page with a table of points, plots of a metric, learning curves and failures.

    Examples:

        hpcsamp campaign report sweep.toml --out report

        hpcsamp campaign report sweep.toml --metric accuracy --curves 3 --curves 7
    """
    from hpcsamp.campaign.point import find
    from hpcsamp.report import sweep

    made = load(campaign, site)
    selection = choose(where, state, point)
    done = sweep.build(
        made,
        look(made, not offline),
        out or made.folder / "report",
        metric=metric,
        selection=selection if selection else None,
        curves=[find(made.points, text).name for text in curves or ()],
        single_file=single_file,
    )
    for line in done.notes:
        typer.echo(f"left out: {line}")
    typer.echo(f"page {done.page}")


def verify(
    campaign: File,
    point: OnePoint = None,
    site: SiteName = None,
    random: Annotated[bool, typer.Option("--random", help="Choose a finished point.")] = False,
    ranks: Annotated[
        int | None, typer.Option(min=1, help=f"{RANKS} (default: the point's number).")
    ] = None,
    tolerance: Annotated[
        float, typer.Option(min=0, help="Allowed relative difference of metrics on another grid.")
    ] = 1e-3,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the folder of the second run.")
    ] = False,
    accept_edits: AcceptEdits = False,
) -> None:
    """Run a finished point again on this machine and check that the results agree.

    Examples:

        hpcsamp campaign verify sweep.toml --random

        hpcsamp campaign verify sweep.toml 3 --ranks 2
    """
    from hpcsamp.campaign import verify as verifying
    from hpcsamp.cli.output import show
    from hpcsamp.errors import HpcsampError
    from hpcsamp.explain import more

    made = load(campaign, site)
    chosen = verifying.choose(made, point, random)
    typer.echo(f"point {chosen.number}, {chosen.name}: running again")
    found = verifying.verify(made, chosen, ranks=ranks, tolerance=tolerance, keep=keep)
    show("", ["result", "first run", "second run"], [list(row) for row in found.rows])
    if not found.agrees:
        raise HpcsampError(
            f"point {chosen.number}, {chosen.name} does not agree: {found.verdict}{more('numbers')}"
        )
    typer.echo(f"point {chosen.number}, {chosen.name} agrees: {found.verdict}")
