"""``hpcsamp doctor``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hpcsamp.cli.options import check_levels

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hpcsamp.doctor import Diagnosis, RankPlace

#: Seconds after which the process ends in any case: a hanging call may hold Python's lock. Longer
#: than one check and the wait for the other ranks may take (hpcsamp.doctor.examination).
LAST_RESORT = 900


def doctor(
    model: Annotated[
        int, typer.Option(min=1, help="Show the grid of ranks for parallel.model = M.")
    ] = 1,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write the results to this JSON file.")
    ] = None,
    quiet: Annotated[
        bool,
        typer.Option(
            "--quiet", "-q", help="List only the checks that found a problem or a warning."
        ),
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Also list the versions of all packages.")
    ] = False,
) -> None:
    """Check the installation, MPI and this machine, and print how to fix each fault.

    One process checks the installation. Under mpirun or srun the ranks are also checked together,
    so start the command the way you start your training. The exit code is 1 if a check fails;
    warnings do not count.

    Examples:

        hpcsamp doctor

        mpirun -n 4 hpcsamp doctor --json doctor.json
    """
    import faulthandler
    import sys

    check_levels(quiet, verbose)
    faulthandler.dump_traceback_later(LAST_RESORT, exit=True, file=2)
    from hpcsamp.doctor import Check, Diagnosis, examine
    from hpcsamp.launcher import ApartError
    from hpcsamp.runtime import mpi, on_terminal

    try:
        comm = mpi().COMM_WORLD
    except ApartError as apart:
        if apart.rank == 0:
            _show(Diagnosis([Check("MPI", "problem", apart.found, apart.mend)]), json_file)
        faulthandler.cancel_dump_traceback_later()
        raise typer.Exit(1) from None
    root = comm.Get_rank() == 0

    def say(name: str) -> None:
        faulthandler.dump_traceback_later(LAST_RESORT, exit=True, file=2)
        if root and not quiet and on_terminal():
            sys.stderr.write(f"\r\x1b[Kchecking {name} ..." if name else "\r\x1b[K")
            sys.stderr.flush()

    found = examine(comm, model=model, say=say)
    say("")
    try:
        if root:
            _show(found, json_file, model, quiet=quiet)
            if verbose:
                _show_versions()
    finally:
        if found.stuck:
            _leave(root)
        faulthandler.cancel_dump_traceback_later()
    if not found.healthy:
        raise typer.Exit(1)


def _show_versions() -> None:
    from hpcsamp.cli.output import show
    from hpcsamp.doctor.software import versions

    typer.echo()
    show("", ["package", "version"], [[n, v or "missing"] for n, v in versions().items()])


def _show(found: Diagnosis, json_file: Path | None, model: int = 1, *, quiet: bool = False) -> None:
    from dataclasses import asdict

    from hpcsamp.cli.output import show, write_json
    from hpcsamp.doctor.check import spans
    from hpcsamp.doctor.software import versions

    colour = {"ok": "", "warning": "yellow", "problem": "bold red"}
    listed = [c for c in found.checks if not quiet or c.status != "ok"]
    if listed:
        show(
            "",
            ["check", "status", "result"],
            [
                [
                    c.name,
                    c.status,
                    f"{c.found}\
fix: {c.mend}"
                    if c.mend
                    else c.found,
                ]
                for c in listed
            ],
            styles=[colour[c.status] for c in listed],
        )
    if found.places and not quiet:
        typer.echo()
        show(
            "",
            [
                "rank",
                "host",
                "data group",
                "sample rank",
                *("model rank",) * (model > 1),
                "cores",
                "threads",
                "device",
            ],
            [
                [p.rank, p.host, *at, spans(p.cores), p.threads, p.device]
                for p, at in zip(found.places, _positions(found.places, model), strict=True)
            ],
        )
    warnings = sum(c.status == "warning" for c in found.checks)
    problems = sum(c.status == "problem" for c in found.checks)
    typer.echo(f"\n{len(found.checks)} checks, warnings: {warnings}, problems: {problems}")
    if json_file is not None:
        data = {
            "healthy": found.healthy,
            "checks": [asdict(c) for c in found.checks],
            "ranks": [asdict(p) for p in found.places],
            "packages": versions(),
        }
        write_json(json_file, data)


def _positions(places: Sequence[RankPlace], model: int) -> list[tuple[int | str, ...]]:
    """Return each rank's position on the axes shown; dashes if the ranks do not form a grid."""
    from hpcsamp.doctor.job import plan
    from hpcsamp.errors import UsageError

    axes = 3 if model > 1 else 2
    try:
        grid = plan(places, model)
    except UsageError:
        return [("-",) * axes] * len(places)
    return [grid.place(p.rank)[:axes] for p in places]


def _leave(root: bool) -> None:
    """End the job at once, because a call that never returns blocks every regular exit.

    Rank 0 ends it after printing the results; the other ranks end it only if rank 0 does not.
    """
    import os
    import sys
    import time

    from hpcsamp.serial import running

    sys.stdout.flush()
    sys.stderr.flush()
    if not root:
        time.sleep(15)
    world = running().COMM_WORLD
    if world.Get_size() > 1:
        world.Abort(1)
    os._exit(1)
