"""``hpcsamp campaign adopt`` and ``prune``: move or remove folders of points outside the plan."""

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
    """Move points of another folder that this campaign lacks into this campaign.

    Use it after renaming a campaign file, and for runs that were started by hand. Only points whose
    settings agree are moved.

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
        bool,
        typer.Option("--yes", help="Remove the points; without this option they are only listed."),
    ] = False,
    accept_edits: AcceptEdits = False,
) -> None:
    """Remove folders of points that are no longer in the campaign file.

    Examples:

        hpcsamp campaign prune sweep.toml

        hpcsamp campaign prune sweep.toml --yes
    """
    from hpcsamp.campaign import unplanned

    made = load(campaign, site)
    names = unplanned.names(made)
    for one in unplanned.describe(made, names):
        typer.echo(f"{one.name} {one.state or 'no recorded state'}{one.why and f': {one.why}'}")
    if not names:
        typer.echo("all points on disk are planned")
    elif yes:
        unplanned.prune(made, names)
        typer.echo(f"removed {len(names)} point{'s' * (len(names) > 1)}")
    else:
        typer.echo(f"{len(names)} point{'s' * (len(names) > 1)} not planned; --yes removes them")
