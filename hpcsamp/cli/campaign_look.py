"""``hpcsamp campaign status``, ``logs`` and ``diff``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from hpcsamp.cli import campaign_watch
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
    in_words,
    load,
    look,
)
from hpcsamp.cli.options import AcceptEdits

if TYPE_CHECKING:
    from hpcsamp.campaign.points import Campaign
    from hpcsamp.campaign.status import PointStatus, Survey
    from hpcsamp.cli.output import Cell


def status(
    campaign: File,
    site: SiteName = None,
    every: All = False,
    offline: Offline = False,
    where: Where = None,
    state: States = None,
    point: Chosen = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Repeat until no point is waiting or running.")
    ] = False,
    seconds: Annotated[
        float, typer.Option("--every", min=0.1, help="Seconds between two queries of --watch.")
    ] = 10.0,
    exit_code: Annotated[
        bool,
        typer.Option(
            "--exit-code",
            help="Exit with code 1 if a point failed or was interrupted, with 75 if one is not "
            "finished.",
        ),
    ] = False,
    json_file: Json = None,
    accept_edits: AcceptEdits = False,
) -> None:
    """Show the state of the points, and why some of them failed or are waiting.

    Examples:

        hpcsamp campaign status sweep.toml --watch

        hpcsamp campaign status sweep.toml --where 'seed < 3' --state failed
    """
    from hpcsamp.campaign import stages, unplanned
    from hpcsamp.campaign.status import WORDS
    from hpcsamp.cli.output import show

    made = load(campaign, site)
    selection = choose(where, state, point)
    if watch:
        followers = {} if selection else stages.of(made)
        campaign_watch.watch(made, choose(where, None, point), followers, seconds)
    survey = look(made, not offline)
    selected = selection.among(made, survey.points) if selection else survey.points
    busy = [s for s in selected if s.word in ("running", "failed", "interrupted", "outdated")]
    chosen = selected if every or selection or len(selected) <= SHOWN else busy
    shown = chosen if every else chosen[:SHOWN]
    reasons = survey.reasons([s for s in shown if s.word != "done"])
    columns = ["point", "folder", *made.points[0].values, "state", "reason"]
    rows: list[list[Cell]] = [[*_row(s), reasons.get(s.point.name, "")] for s in shown]
    counts = {w: sum(s.word == w for s in selected) for w in WORDS}
    extra = unplanned.names(made)
    described = unplanned.describe(made, extra if every else extra[:SHOWN])
    show(
        "",
        columns,
        rows,
        json_file=json_file,
        data={
            "counts": counts,
            "points": [
                {
                    "point": s.point.number,
                    "folder": s.point.name,
                    "state": s.word,
                    "why": reasons.get(s.point.name, s.why),
                }
                for s in selected
            ],
            "unplanned": [{"folder": u.name, "state": u.state, "why": u.why} for u in described],
        },
    )
    if len(shown) < len(selected):
        typer.echo(f"{len(selected) - len(shown)} points are not shown (--all shows them)")
    of = f" of {len(survey.points)}" if selection else ""
    typer.echo(f"{len(selected)}{of} points: {in_words(counts) or 'none is selected'}")
    _show_unplanned(made, survey, described, len(extra))
    for name, follower in ({} if selection else stages.of(made)).items():
        words = look(follower, not offline).counts()
        typer.echo(f"{made.file}:{name}: {in_words(words)}")
        counts = {w: n + words[w] for w, n in counts.items()}
    if exit_code:
        raise typer.Exit(_exit_code(counts))


def _row(s: PointStatus) -> list[Cell]:
    return [s.point.number, s.point.name, *map(cell, s.point.values.values()), s.word]


def _exit_code(counts: dict[Any, int]) -> int:
    if counts["failed"] or counts["interrupted"]:
        return 1
    return 75 if any(n for word, n in counts.items() if word not in ("done", "pruned")) else 0


def _show_unplanned(made: Campaign, survey: Survey, described: list[Any], total: int) -> None:
    """List points on disk that are not in the plan, and planned points in other folders."""
    from hpcsamp.campaign import unplanned

    if total:
        typer.echo(
            f"{total} point{'s' * (total > 1)} on disk {'are' if total > 1 else 'is'} not planned "
            f"any more (hpcsamp campaign prune removes them):"
        )
        for one in described[:SHOWN]:
            typer.echo(
                f"  {one.name} {one.state or 'no recorded state'}{one.why and f': {one.why}'}"
            )
    missing = [s.point for s in survey.of("missing")]
    for folder, count in unplanned.elsewhere(made, missing).items() if missing else ():
        typer.echo(
            f"{count} missing point{'s' * (count > 1)} in {folder}: hpcsamp campaign adopt "
            f"{made.file} {folder} moves {'them' if count > 1 else 'it'} here"
        )


def logs(
    campaign: File,
    point: OnePoint = None,
    site: SiteName = None,
    where: Where = None,
    state: States = None,
    follow: Annotated[
        bool,
        typer.Option("--follow", "-f", help="Keep printing new lines until the point has ended."),
    ] = False,
    lines: Annotated[
        int,
        typer.Option(
            "--lines",
            "-n",
            min=0,
            help="Number of lines to print from the end of the log; 0 for all.",
        ),
    ] = 0,
    offline: Offline = False,
    accept_edits: AcceptEdits = False,
) -> None:
    """Print the log of a point, or of all selected points, since its last start.

    Examples:

        hpcsamp campaign logs sweep.toml 3 --follow

        hpcsamp campaign logs sweep.toml --state failed --lines 20
    """
    from hpcsamp.campaign import following
    from hpcsamp.errors import UsageError

    made = load(campaign, site)
    selection = choose(where, state, [point] if point else None)
    if not selection:
        raise UsageError("name a point by its number or its folder, or select points with --where")
    ask = not offline and (follow or "running" in selection.states or "queued" in selection.states)
    survey = look(made, ask)
    chosen = selection.among(made, survey.points)
    if follow and len(chosen) != 1:
        raise UsageError(f"--follow shows one log, but {len(chosen)} points are selected")
    for one in chosen:
        if len(chosen) > 1:
            typer.echo(f"==> point {one.point.number}, {one.point.name} ({one.word})")
        found = survey.element(one.point)
        if found is None or not found.log.exists():
            if len(chosen) == 1 and not follow:
                raise UsageError(f"point {one.point.number}, {one.point.name} has no log yet")
            typer.echo("no log yet")
        if found is not None and found.log.exists():
            text = following.last_start(found.log, made.folder / "points" / one.point.name, lines)
            typer.echo(text, nl=False)
        if follow:
            following.follow(made, one.point, lambda text: typer.echo(text, nl=False))


def diff(
    campaign: File,
    first: Annotated[str, typer.Argument(help="Number of a point, or the name of its folder.")],
    second: Annotated[str, typer.Argument(help="Another point.")],
    site: SiteName = None,
    json_file: Json = None,
    accept_edits: AcceptEdits = False,
) -> None:
    """Show the keys in which two points differ; the points need not be in the plan any more.

    Examples:

        hpcsamp campaign diff sweep.toml 1 4

        hpcsamp campaign diff sweep.toml 1 b3072fb3c080 --json differences.json
    """
    from hpcsamp.campaign import unplanned
    from hpcsamp.cli.output import show

    made = load(campaign, site)
    (one, a), (two, b) = (unplanned.facts(made, text) for text in (first, second))
    keys = [k for k in dict.fromkeys([*a, *b]) if a.get(k) != b.get(k)]
    show("", ["key", one, two], [[k, cell(a.get(k)), cell(b.get(k))] for k in keys], json_file)
    typer.echo(f"{len(keys)} key{'s' * (len(keys) != 1)} differ{'s' * (len(keys) == 1)}")
