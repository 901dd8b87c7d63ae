"""``hpcsamp campaign``: plan, submit and collect many runs described by one file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hpcsamp.cli import campaign_files, campaign_look, campaign_results, campaign_search
from hpcsamp.cli.campaign_options import (
    SHOWN,
    All,
    Chosen,
    File,
    Json,
    SiteName,
    States,
    Where,
    cell,
    choose,
    load,
    or_elsewhere,
)
from hpcsamp.cli.options import AcceptEdits
from hpcsamp.cli.tree import SETTINGS, Command, Group

if TYPE_CHECKING:
    from hpcsamp.campaign.points import Campaign
    from hpcsamp.campaign.schedulers import Limits
    from hpcsamp.campaign.submit import Submitted

app = typer.Typer(
    cls=Group,
    help="""Plan, submit and collect many runs described by one campaign file.

    Examples:

        hpcsamp campaign plan sweep.toml

        hpcsamp campaign submit sweep.toml
    """,
    **SETTINGS,
)


@app.command(cls=Command)
def plan(
    campaign: File,
    site: SiteName = None,
    every: All = False,
    where: Where = None,
    point: Chosen = None,
    json_file: Json = None,
    accept_edits: AcceptEdits = False,
) -> None:
    """Show the points, the resources they need, and the maximum number of core-hours.

    Points that cannot run or that exceed the scheduler's limits are refused.

    Examples:

        hpcsamp campaign plan sweep.toml

        hpcsamp campaign plan sweep.toml --site local --all
    """
    from hpcsamp.campaign import runnable
    from hpcsamp.campaign.resources import Shape
    from hpcsamp.campaign.schedulers import make as scheduler
    from hpcsamp.campaign.schedulers.base import check_limits
    from hpcsamp.cli.output import Cell, show

    made = load(campaign, site)
    points = choose(where, None, point).of_plan(made)
    columns = list(made.points[0].values)
    shown = points if every else points[:SHOWN]
    rows: list[list[Cell]] = [
        [p.number, p.name, *map(cell, p.values.values()), round(p.shape.core_hours, 3)]
        for p in shown
    ]
    show("", ["point", "folder", *columns, "core-hours"], rows)
    if len(shown) < len(points):
        typer.echo(f"... and {len(points) - len(shown)} more (--all shows them)")
    by_shape: dict[Shape, int] = {}
    for one in points:
        by_shape[one.shape] = by_shape.get(one.shape, 0) + 1
    typer.echo("")
    show(
        "",
        ["points", "resources per point", "max. core-hours"],
        [[n, s.describe(), round(n * s.core_hours, 3)] for s, n in sorted(by_shape.items())],
        json_file=json_file,
        data=[
            {"point": p.number, "folder": p.name, **p.values, "core_hours": p.shape.core_hours}
            for p in points
        ],
    )
    runnable.check(made, points)
    limits = _limits(made)
    check_limits(sorted(by_shape), made.site, limits, scheduler(made.site).partition_word)
    hours = sum(p.shape.core_hours for p in points)
    typer.echo(f"{len(points)} points, at most {hours:.6g} core-hours; folder {made.folder}")


@app.command(cls=Command)
def render(
    campaign: File,
    site: SiteName = None,
    out: Annotated[
        Path | None, typer.Option(help="Write the scripts of all points to this folder instead.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite scripts that were edited by hand.")
    ] = False,
    accept_edits: AcceptEdits = False,
) -> None:
    """Write the job scripts without submitting them, to read, edit or run by hand.

    The command also works on a computer without the scheduler; the scheduler's limits are then
    checked by submit.

    Examples:

        hpcsamp campaign render sweep.toml

        hpcsamp campaign render sweep.toml --site lumi --out scripts
    """
    from hpcsamp.campaign import mending
    from hpcsamp.campaign import render as rendering
    from hpcsamp.campaign.status import Survey
    from hpcsamp.campaign.store import Store
    from hpcsamp.campaign.submit import render_next
    from hpcsamp.errors import UsageError
    from hpcsamp.files import write_whole

    made = load(campaign, site)
    store = Store(made.folder)
    if out is not None:
        jobs = rendering.arrays(made.points, made.site, made.site.max_array)
        texts = rendering.files(made, jobs, out.resolve())
        try:
            out.mkdir(parents=True, exist_ok=True)
            for name, text in texts.items():
                write_whole(out / name, text)
        except OSError as e:
            raise UsageError(f"cannot write {out}: {e.strerror}") from e
        folder = out
    else:
        with store.lock():
            state = store.load()
            with or_elsewhere("--out DIR renders all points"):
                survey = Survey(made, mending.mend(made, state, store))
                missing = [s.point for s in survey.of("missing", "outdated")]
            if not missing:
                typer.echo("nothing to render: all points were started; --out DIR renders them all")
                return
            edits, limits = "discard" if force else "refuse", _limits(made)
            rendered = render_next(made, store, state, missing, edits, limits)
        jobs, folder = rendered.jobs, rendered.folder
    for job in jobs:
        count = len(job.points)
        typer.echo(f"{folder / job.script}: {count} points, {job.shape.describe()}")


@app.command(cls=Command)
def submit(
    campaign: File,
    site: SiteName = None,
    where: Where = None,
    point: Chosen = None,
    accept_edits: AcceptEdits = False,
) -> None:
    """Submit the points that were never started or lack a result file; do not wait for them.

    Jobs of stages are submitted as well; they wait in the scheduler for what they need.

    Examples:

        hpcsamp campaign submit sweep.toml

        hpcsamp campaign submit sweep.toml --where 'method.samples == 16 and seed < 3'
    """
    from hpcsamp.campaign import stages
    from hpcsamp.campaign.submit import NEW

    selection = choose(where, None, point)
    done = stages.submit_all(load(campaign, site), NEW, selection, accept_edits=accept_edits)
    _report(done, f"was never started{' in this selection' * bool(selection)}")


@app.command(cls=Command)
def resume(
    campaign: File,
    site: SiteName = None,
    where: Where = None,
    state: States = None,
    point: Chosen = None,
    time: Annotated[str | None, typer.Option(help="New time limit, e.g. 02:00:00.")] = None,
    memory: Annotated[str | None, typer.Option(help="New memory per node, e.g. 16G.")] = None,
    accept_edits: AcceptEdits = False,
) -> None:
    """Submit missing, failed and interrupted points; they continue from their checkpoints.

    Examples:

        hpcsamp campaign resume sweep.toml

        hpcsamp campaign resume sweep.toml --state failed --time 02:00:00 --memory 16G
    """
    from hpcsamp.campaign import stages
    from hpcsamp.campaign.submit import NEW

    selection = choose(where, state, point)
    done = stages.submit_all(
        load(campaign, site),
        [*NEW, "failed", "interrupted"],
        selection,
        accept_edits=accept_edits,
        time=time,
        memory=memory,
    )
    _report(done, f"is missing, failed or interrupted{' in this selection' * bool(selection)}")


@app.command(cls=Command)
def cancel(
    campaign: File,
    site: SiteName = None,
    where: Where = None,
    state: States = None,
    point: Chosen = None,
    accept_edits: AcceptEdits = False,
) -> None:
    """Cancel waiting and running jobs of the campaign; resume continues them later.

    Examples:

        hpcsamp campaign cancel sweep.toml

        hpcsamp campaign cancel sweep.toml --where 'seed > 3' --state queued
    """
    from hpcsamp.campaign import stages

    ended = stages.cancel_all(load(campaign, site), choose(where, state, point))
    typer.echo(f"cancelled {', '.join(ended)}" if ended else "no job is waiting or running")


@app.command(hidden=True, cls=Command)
def check(
    point: Annotated[Path, typer.Argument(help="Folder of a point.")],
    wanted: Annotated[
        list[str], typer.Argument(metavar="PRODUCT", help="Result files that the point must have.")
    ],
) -> None:
    """Check the result files of a point and print its recorded state (used by job scripts).

    Examples:

        hpcsamp campaign check points/0001 summary.json

        hpcsamp campaign check points/0002 summary.json evaluation.json
    """
    from hpcsamp.campaign import products

    products.check(point, wanted)
    typer.echo(products.stamp(point, wanted))


@app.command(hidden=True, cls=Command)
def serve(
    folder: Annotated[Path, typer.Argument(help="Folder of the server.")],
    owner: Annotated[int, typer.Argument(help="Process with which the server ends.")],
) -> None:
    """Import packages once and fork a process for each command (used by job scripts).

    Examples:

        hpcsamp campaign serve /tmp/served 4711

        hpcsamp campaign serve served 4712
    """
    import rich.progress  # noqa: F401 - the processes need them, and the torch that they import

    import hpcsamp.losses
    import hpcsamp.methods
    import hpcsamp.metrics  # noqa: F401
    from hpcsamp import cli
    from hpcsamp.provenance import packages
    from hpcsamp.serving import server

    packages()  # kept by each process
    server.serve(folder, owner)
    try:
        cli.main()
    except SystemExit as e:
        server.leave(e.code)


def _limits(made: Campaign) -> Limits:
    """Return the limits of the scheduler; without the scheduler, print a note and return none."""
    from hpcsamp.campaign.schedulers import Limits, SchedulerError, make

    try:
        return make(made.site).limits()
    except SchedulerError as e:
        typer.echo(f"hpcsamp: {e}; submit checks the limits of the scheduler", err=True)
        return Limits(0, {})


def _report(stages: dict[str, list[Submitted]], which: str) -> None:
    """Print what was submitted of the points and of each stage."""
    submitted = [(name, one) for name, of in stages.items() for one in of if one.points]
    for name, done in submitted:
        points, jobs = len(done.points), len(done.jobs)
        typer.echo(
            f"{f'{name}: ' * (len(stages) > 1)}submitted {points} point{'s' * (points > 1)} in "
            f"{jobs} array{'s' * (jobs > 1)}: {', '.join(done.jobs)}; scripts and logs in "
            f"{done.folder}"
        )
    if not submitted:
        typer.echo(f"nothing to submit: no point {which}")


for _command in (
    campaign_look.status,
    campaign_look.logs,
    campaign_look.diff,
    campaign_results.collect,
    campaign_results.best,
    campaign_results.account,
    campaign_results.report,
    campaign_results.verify,
    campaign_search.search,
    campaign_files.adopt,
    campaign_files.prune,
):
    app.command(cls=Command)(_command)
