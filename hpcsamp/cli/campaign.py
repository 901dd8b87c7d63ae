"""``hpcsamp campaign``: plan, submit and collect many runs described by one file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hpcsamp.cli.options import RANKS, AcceptEdits
from hpcsamp.cli.tree import SETTINGS, Command, Group

if TYPE_CHECKING:
    from hpcsamp.campaign.points import Campaign
    from hpcsamp.campaign.schedulers import Limits
    from hpcsamp.campaign.submit import Submitted

app = typer.Typer(
    cls=Group,
    help="""Plan, submit and collect many runs that are described by one campaign file.

    Examples:

        hpcsamp campaign plan sweep.toml

        hpcsamp campaign submit sweep.toml
    """,
    **SETTINGS,
)

File = Annotated[Path, typer.Argument(metavar="CAMPAIGN", help="The campaign file.")]
SiteName = Annotated[
    str | None, typer.Option("--site", help="Site to use in place of the file's, e.g. local.")
]
Json = Annotated[
    Path | None, typer.Option("--json", help="Also write the table to this JSON file.")
]
All = Annotated[bool, typer.Option("--all", help="Show all points, not only the first 50.")]
Offline = Annotated[
    bool, typer.Option("--offline", help="Do not query the scheduler for waiting and running jobs.")
]
SHOWN = 50
"""Number of points shown in a table without ``--all``."""


def _load(file: Path, site: str | None = None) -> Campaign:
    from hpcsamp.campaign.points import Campaign
    from hpcsamp.campaign.store import Store

    campaign = Campaign(file, site)
    campaign.known_datasets |= Store(campaign.folder).load().datasets
    return campaign


@app.command(cls=Command)
def plan(
    campaign: File,
    site: SiteName = None,
    every: All = False,
    json_file: Json = None,
    accept_edits: AcceptEdits = False,
) -> None:
    """Show the points, the resources they need, and the largest number of core-hours.

    Examples:

        hpcsamp campaign plan sweep.toml

        hpcsamp campaign plan sweep.toml --site local --all
    """
    from hpcsamp.campaign.resources import Shape
    from hpcsamp.cli.output import Cell, show

    made = _load(campaign, site)
    points = made.points
    columns = list(points[0].values)
    shown = points if every else points[:SHOWN]
    rows: list[list[Cell]] = [
        [p.number, p.name, *map(_cell, p.values.values()), round(p.shape.core_hours, 3)]
        for p in shown
    ]
    show("", ["point", "folder", *columns, "core-hours"], rows)
    if len(shown) < len(points):
        typer.echo(f"... and {len(points) - len(shown)} more (--all shows them)")
    by_shape: dict[Shape, int] = {}
    for point in points:
        by_shape[point.shape] = by_shape.get(point.shape, 0) + 1
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
    """Write the job scripts that submit would submit, to read, edit or run by hand.

    Works on a computer without the scheduler as well; its limits are then checked by submit.

    Examples:

        hpcsamp campaign render sweep.toml

        hpcsamp campaign render sweep.toml --site lumi --out scripts
    """
    from hpcsamp.campaign import render as rendering
    from hpcsamp.campaign.status import Survey
    from hpcsamp.campaign.store import Store
    from hpcsamp.campaign.submit import render_next
    from hpcsamp.errors import UsageError
    from hpcsamp.files import write_whole

    made = _load(campaign, site)
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
            with _or_elsewhere("--out DIR renders all points"):
                missing = [s.point for s in Survey(made, state).of("missing")]
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
def submit(campaign: File, site: SiteName = None, accept_edits: AcceptEdits = False) -> None:
    """Submit the points that were never started, and return without waiting for them.

    Examples:

        hpcsamp campaign submit sweep.toml

        hpcsamp campaign submit sweep.toml --site local
    """
    from hpcsamp.campaign import submit as submission

    made = _load(campaign, site)
    _report(submission.submit(made, ["missing"], accept_edits=accept_edits), "was never started")


@app.command(cls=Command)
def resume(
    campaign: File,
    site: SiteName = None,
    time: Annotated[str | None, typer.Option(help="New time limit, e.g. 02:00:00.")] = None,
    memory: Annotated[str | None, typer.Option(help="New memory per node, e.g. 16G.")] = None,
    accept_edits: AcceptEdits = False,
) -> None:
    """Submit missing, failed and interrupted points; they continue from their checkpoints.

    Examples:

        hpcsamp campaign resume sweep.toml

        hpcsamp campaign resume sweep.toml --time 02:00:00 --memory 16G
    """
    from hpcsamp.campaign import submit as submission

    made = _load(campaign, site)
    done = submission.submit(
        made,
        ["missing", "failed", "interrupted"],
        accept_edits=accept_edits,
        time=time,
        memory=memory,
    )
    _report(done, "is missing, failed or interrupted")


@app.command(cls=Command)
def status(
    campaign: File,
    site: SiteName = None,
    every: All = False,
    offline: Offline = False,
    json_file: Json = None,
    accept_edits: AcceptEdits = False,
) -> None:
    """Show the state of the points, and why failed ones have failed.

    Examples:

        hpcsamp campaign status sweep.toml

        hpcsamp campaign status sweep.toml --offline --json status.json
    """
    from hpcsamp.campaign.status import WORDS, Survey
    from hpcsamp.campaign.store import Store
    from hpcsamp.cli.output import show

    made = _load(campaign, site)
    state = Store(made.folder).load()
    with _or_elsewhere():
        survey = Survey(made, state, ask_scheduler=not offline)
    counts = survey.counts()
    small = len(survey.points) <= SHOWN
    chosen = survey.points if every or small else survey.of("running", "failed", "interrupted")
    shown = chosen if every else chosen[:SHOWN]
    reasons = survey.reasons([s for s in shown if s.word in ("failed", "interrupted")])
    show(
        "",
        ["point", "folder", *made.points[0].values, "state", "reason"],
        [
            [
                s.point.number,
                s.point.name,
                *map(_cell, s.point.values.values()),
                s.word,
                reasons.get(s.point.name, ""),
            ]
            for s in shown
        ],
        json_file=json_file,
        data={
            "counts": {w: counts[w] for w in WORDS},
            "points": [
                {
                    "point": s.point.number,
                    "folder": s.point.name,
                    "state": s.word,
                    "why": reasons.get(s.point.name, s.why),
                }
                for s in survey.points
            ],
        },
    )
    if len(shown) < len(survey.points):
        typer.echo(f"{len(survey.points) - len(shown)} points are not shown (--all shows them)")
    by_state = ", ".join(f"{counts[w]} {w}" for w in WORDS if counts[w])
    typer.echo(f"{len(survey.points)} points: {by_state}")


@app.command(cls=Command)
def cancel(campaign: File, site: SiteName = None, accept_edits: AcceptEdits = False) -> None:
    """Cancel all waiting and running jobs of the campaign; resume continues them later.

    Examples:

        hpcsamp campaign cancel sweep.toml

        hpcsamp campaign cancel sweep.toml --site horeka
    """
    from hpcsamp.campaign.submit import cancel as end

    ended = end(_load(campaign, site))
    typer.echo(f"cancelled {', '.join(ended)}" if ended else "no job is waiting or running")


@app.command(cls=Command)
def collect(
    campaign: File,
    site: SiteName = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Table to write: .csv, .parquet or .h5."),
    ] = None,
    offline: Offline = False,
    accept_edits: AcceptEdits = False,
) -> None:
    """Write the results of all finished points to one table; list the points without results.

    Examples:

        hpcsamp campaign collect sweep.toml

        hpcsamp campaign collect sweep.toml --out results.parquet
    """
    from hpcsamp.campaign import collect as collecting

    made = _load(campaign, site)
    path = out or made.folder / "results.csv"
    with _or_elsewhere():
        result = collecting.collect(made, ask_scheduler=not offline)
    collecting.write(path, result)
    typer.echo(f"{len(result.rows)} rows of {len(made.points)} points, written to {path}")
    for name, why in result.left_out.items():
        typer.echo(f"no result: {name}: {why}")


@app.command(cls=Command)
def verify(
    campaign: File,
    point: Annotated[
        str | None, typer.Argument(help="Number of a point, or the name of its folder.")
    ] = None,
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
    """Run a finished point again on this machine and check that the numbers agree.

    Examples:

        hpcsamp campaign verify sweep.toml --random

        hpcsamp campaign verify sweep.toml 3 --ranks 2
    """
    from hpcsamp.campaign import verify as verifying
    from hpcsamp.cli.output import show
    from hpcsamp.errors import HpcsampError
    from hpcsamp.explain import more

    made = _load(campaign, site)
    chosen = verifying.choose(made, point, random)
    typer.echo(f"point {chosen.number}, {chosen.name}: running again")
    found = verifying.verify(made, chosen, ranks=ranks, tolerance=tolerance, keep=keep)
    show("", ["result", "first run", "second run"], [list(row) for row in found.rows])
    if not found.agrees:
        raise HpcsampError(
            f"point {chosen.number}, {chosen.name} does not agree: {found.verdict}{more('numbers')}"
        )
    typer.echo(f"point {chosen.number}, {chosen.name} agrees: {found.verdict}")


@app.command(hidden=True, cls=Command)
def check(
    point: Annotated[Path, typer.Argument(help="Folder of a point.")],
    wanted: Annotated[list[str], typer.Argument(metavar="PRODUCT", help="Its product files.")],
) -> None:
    """Check the product files of a point and print their signature (for job scripts).

    Examples:

        hpcsamp campaign check points/0001 summary.json

        hpcsamp campaign check points/0002 summary.json evaluation.json
    """
    from hpcsamp.campaign import products

    products.check(point, wanted)
    typer.echo(products.signature(str(point), wanted))


@contextmanager
def _or_elsewhere(how: str = "--offline works") -> Iterator[None]:
    """Add to errors of the scheduler how the command works without it."""
    from hpcsamp.campaign.schedulers import SchedulerError

    try:
        yield
    except SchedulerError as e:
        raise SchedulerError(f"{e}; {how} without the scheduler") from e


def _limits(made: Campaign) -> Limits:
    """Return the scheduler's limits; none with a note if there is no scheduler to ask."""
    from hpcsamp.campaign.schedulers import Limits, SchedulerError, make

    try:
        return make(made.site).limits()
    except SchedulerError as e:
        typer.echo(f"hpcsamp: {e}; its limits will be checked by submit", err=True)
        return Limits(0, {})


def _report(done: Submitted, which: str) -> None:
    if not done.points:
        typer.echo(f"nothing to submit: no point {which}")
        return
    points, jobs = len(done.points), len(done.jobs)
    typer.echo(
        f"submitted {points} point{'s' * (points > 1)} in {jobs} array{'s' * (jobs > 1)}: "
        f"{', '.join(done.jobs)}; scripts and logs in {done.folder}"
    )


def _cell(value: object) -> str | int | float | bool | None:
    return value if isinstance(value, str | int | float | bool | None) else str(value)
