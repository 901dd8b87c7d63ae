"""Options that several commands share."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from hpcsamp.errors import UsageError


def _accept(context: typer.Context, allowed: bool) -> bool:
    from hpcsamp.sealing import edits

    edits.accept(allowed)
    if allowed:
        context.call_on_close(_report)
    return allowed


def _report() -> None:
    """Print the names of the files read that were edited by hand, on rank 0 only."""
    from hpcsamp.sealing import edits
    from hpcsamp.serial import running

    if running().COMM_WORLD.Get_rank() > 0:
        return
    for name in edits.taken():
        sys.stderr.write(f"hpcsamp: {name} was edited by hand and is accepted unchanged\n")


AcceptEdits = Annotated[
    bool,
    typer.Option(
        "--accept-edits",
        callback=_accept,
        help="Accept files that were edited after hpcsamp wrote them.",
    ),
]


def _show_log(verbose: bool) -> bool:
    """Print the log records of the package on standard error, on rank 0 only."""
    if verbose:
        import logging

        from hpcsamp.serial import running

        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("hpcsamp: %(message)s"))
        handler.addFilter(
            lambda record: record.levelno >= logging.WARNING or running().COMM_WORLD.Get_rank() == 0
        )
        log = logging.getLogger("hpcsamp")
        log.setLevel(logging.INFO)
        log.handlers, log.propagate = [handler], False
    return verbose


Quiet = Annotated[
    bool,
    typer.Option(
        "--quiet", "-q", help="Print results, warnings and errors only: no progress and no notes."
    ),
]


def verbose(shows: str) -> Any:
    """Build the option ``-v`` of a command; ``shows`` describes its output besides log records."""
    return typer.Option("--verbose", "-v", callback=_show_log, help=shows)


Verbose = Annotated[bool, verbose("Also print details of how the data are read.")]


def check_levels(quiet: bool, verbose: bool) -> None:
    """Refuse ``-q`` together with ``-v``; every rank has the same arguments."""
    if quiet and verbose:
        raise typer.BadParameter("-q and -v exclude each other: use only one of them")


RANKS = "Number of ranks to start, unless mpirun or srun started the command"
"""Meaning of ``--ranks`` in all commands that start a job."""
Ranks = Annotated[int, typer.Option("--ranks", min=1, help=f"{RANKS}.")]


def numbers(option: str, text: str) -> list[int]:
    """Parse positive integers separated by commas, such as ``8,32``.

    Raises
    ------
    UsageError
        If the text is not such a list.
    """
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or min(found) < 1:
        raise UsageError(
            f"{option} {text!r}: must be positive numbers separated by commas, e.g. 8,32"
        )
    return found
