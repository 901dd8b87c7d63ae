"""``hpcsamp campaign adopt`` and ``prune``: folders of points that the campaign file lost."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hpcsamp.cli.campaign_options import File, SiteName, load
from hpcsamp.cli.options import AcceptEdits


def adopt(
    campaign: File,
    folder: Annotated[Path, typer.Argument(help="Folder of another campaign, or of one run.")],
    site: SiteName = None,
    accept_edits: AcceptEdits = False,
) -> None:
    """Move finished or begun points from another folder into this campaign, where it misses them.

    Needed after a campaign file was renamed, and for runs that were started by hand. Only points
    with the same numbers are moved.

    Examples:

        hpcsamp campaign adopt renamed.toml campaigns/sweep

        hpcsamp campaign adopt sweep.toml runs/a
    """
    from hpcsamp.campaign import unplanned

    made = load(campaign, site)
    moved = unplanned.adopt(made, folder)
    typer.echo(f"moved {len(moved)} point{'s' * (len(moved) != 1)} to {made.folder}")


def prune(
    campaign: File,
    site: SiteName = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Remove the points; without, they are listed only.")
    ] = False,
    accept_edits: AcceptEdits = False,
) -> None:
    """Remove folders of points that the campaign file does not plan any more.

    Examples:

        hpcsamp campaign prune sweep.toml

        hpcsamp campaign prune sweep.toml --yes
    """
    from hpcsamp.campaign import unplanned

    made = load(campaign, site)
    names = unplanned.names(made)
    for one in unplanned.describe(made, names):
        typer.echo(f"{one.name} {one.state or 'no mark'}{one.why and f': {one.why}'}")
    if not names:
        typer.echo("all points on disk are planned")
    elif yes:
        unplanned.prune(made, names)
        typer.echo(f"removed {len(names)} point{'s' * (len(names) > 1)}")
    else:
        typer.echo(f"{len(names)} point{'s' * (len(names) > 1)} not planned; --yes removes them")
