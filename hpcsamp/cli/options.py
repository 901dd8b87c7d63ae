"""Options that several commands share."""

from __future__ import annotations

import sys
from typing import Annotated

import typer


def _accept(context: typer.Context, allowed: bool) -> bool:
    from hpcsamp.sealing import edits

    edits.accept(allowed)
    if allowed:
        context.call_on_close(_tell)
    return allowed


def _tell() -> None:
    """Name the edited files that were read, once, by rank 0."""
    from hpcsamp.sealing import edits
    from hpcsamp.serial import running

    if running().COMM_WORLD.Get_rank() > 0:
        return
    for name in edits.taken():
        sys.stderr.write(f"hpcsamp: {name} was edited, and is taken as it is\n")


AcceptEdits = Annotated[
    bool,
    typer.Option(
        "--accept-edits",
        callback=_accept,
        help="Take files that were edited since they were written as they are.",
    ),
]
