"""``hpcsamp campaign search``."""

from __future__ import annotations

from typing import Annotated

import typer

from hpcsamp.cli.campaign_options import File, SiteName, or_elsewhere
from hpcsamp.cli.options import AcceptEdits


def search(
    campaign: File,
    site: SiteName = None,
    seconds: Annotated[
        float, typer.Option("--every", min=0.1, help="Seconds between two checks of the points.")
    ] = 10.0,
    accept_edits: AcceptEdits = False,
) -> None:
    """Search for the best values of keys with Optuna, as [search] describes, until all trials end.

    If the command is stopped or killed, the points continue, and the same command continues the
    search.

    Examples:

        hpcsamp campaign search search.toml

        hpcsamp campaign search search.toml --every 60
    """
    from hpcsamp.campaign.search import Searcher

    searcher = Searcher(campaign, site, typer.echo)
    with or_elsewhere("hpcsamp campaign search continues later; status --offline works"):
        searcher.run(seconds)
    found = searcher.best()
    if found is None:
        typer.echo(f"no trial has a {searcher.search.metric}")
        return
    typer.echo(f"best: {searcher.search.metric} = {found[1]:.6g} in trial {found[0] + 1}")
