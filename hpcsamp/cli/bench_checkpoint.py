"""``hpcsamp bench checkpoint``: whether a checkpoint can be written before a time limit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def checkpoint(
    folder: Annotated[Path, typer.Argument(help="Folder on the file system to measure.")],
    gigabytes: Annotated[
        float, typer.Option(min=1e-3, help="Size in GB of the checkpoint to write.")
    ] = 1.0,
    whole: Annotated[
        float, typer.Option(min=1e-3, help="Size in GB that must be written within --window.")
    ] = 25.0,
    window: Annotated[float, typer.Option(min=1e-3, help="Seconds available for --whole.")] = 120.0,
    sharded: Annotated[bool, typer.Option(help="Measure with optimizer.sharded = true.")] = False,
    rounds: Annotated[int, typer.Option(min=1, help="Number of timed rounds.")] = 5,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write the table to this JSON file.")
    ] = None,
) -> None:
    """Time how long a checkpoint takes to write, and how long it pauses training.

    The checkpoint is that of a mean-field network with Adam, written by all ranks together.

    Examples:

        mpirun -n 4 hpcsamp bench checkpoint runs

        hpcsamp bench checkpoint /tmp --gigabytes 0.1 --whole 25 --window 120
    """
    from hpcsamp.bench.checkpoint import lines, rates, stops
    from hpcsamp.cli.output import write_json
    from hpcsamp.errors import UsageError
    from hpcsamp.grid import init, together

    topology = init("world")
    with together(topology.world):
        if not folder.is_dir():
            raise UsageError(f"there is no folder {folder}")
    size, ranks = int(gigabytes * 1e9), topology.size
    own = rates(folder, size // ranks, rounds, topology)
    stopped = stops(folder, size, rounds, sharded, topology)
    found = {"rates": topology.world.gather(own), "stops": topology.world.gather(stopped)}
    with together(topology.world):
        if topology.is_root:
            for line in lines(found, size, int(whole * 1e9), window, ranks):
                typer.echo(line)
            if json_file is not None:
                write_json(json_file, {"ranks": ranks, "bytes": size, **found})
