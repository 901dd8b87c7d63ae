"""Options that several commands share."""

from __future__ import annotations

import sys
from typing import Annotated

import typer


def _accept(context: typer.Context, allowed: bool) -> bool:
    from hpcsamp.sealing import edits

    edits.accept(allowed)
    if allowed:
        context.call_on_close(_report)
    return allowed


def _report() -> None:
    """Print the names of the edited files that were read, on rank 0 only."""
    from hpcsamp.sealing import edits
    from hpcsamp.serial import running

    if running().COMM_WORLD.Get_rank() > 0:
        return
    for name in edits.taken():
        sys.stderr.write(f"hpcsamp: {name} was edited and is accepted as it is\n")


AcceptEdits = Annotated[
    bool,
    typer.Option(
        "--accept-edits",
        callback=_accept,
        help="Accept files of hpcsamp that were edited after they were written.",
    ),
]
