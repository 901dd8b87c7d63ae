"""``hpcsamp train``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hpcsamp.cli.options import AcceptEdits


def train(
    config: Annotated[
        str, typer.Argument(help="A TOML file, or the name of a packaged configuration.")
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Run folder (default: runs/NAME of the config)."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Set a key, e.g. --set optimizer.lr=1e-3; repeatable."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help='Dataset folder; "synthetic" generates a set next to data.path.'),
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="One of the configuration's presets, e.g. small.")
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Continue from the newest checkpoint, if there is one."),
    ] = False,
    time_limit: Annotated[
        str | None,
        typer.Option(
            envvar="HPCSAMP_TIME_LIMIT",
            help="Write a checkpoint and exit with code 75 before this time limit is reached: "
            "minutes or HH:MM:SS. The time limit of a Slurm job is detected automatically.",
        ),
    ] = None,
    accept_edits: AcceptEdits = False,
) -> None:
    """Train a Bayesian neural network in one process, or on all ranks under mpirun or srun.

    Ranks form a grid of sample groups (same batch, different weight samples) and data groups (same
    samples, different data); the result does not depend on the grid.
    """
    from hpcsamp import config as configuration
    from hpcsamp.grid import init, together
    from hpcsamp.runtime import mpi

    with together(mpi().COMM_WORLD):
        limit = [f'training.time_limit="{time_limit}"'] if time_limit else []
        run = configuration.load(config, [*(settings or ()), *limit], preset=preset)
    topology = init(run.parallel.samples, model=run.parallel.model, device=run.parallel.device)
    from hpcsamp.run.prepare import prepare
    from hpcsamp.training.loop import train as train_run
    from hpcsamp.watchdog import STALL
    from hpcsamp.watchdog.dog import Watchdog

    name = "-".join([Path(config).stem, *([preset] if preset else [])])
    folder = output or Path("runs") / name
    with Watchdog(topology.world, run.training.stall, folder / STALL) as watchdog:
        if topology.is_root:
            typer.echo(watchdog.describe())
        run = prepare(run, data, topology.world)
        summary = train_run(run, topology, folder, resume)
    if topology.is_root:
        seconds = summary["seconds_per_step"]
        typer.echo(
            f"done: {summary['steps']} steps"
            + (f", {seconds:.3f} s per step" if seconds else "")
            + f", parameters {summary['parameters_sha256'][:12]}; {folder}/summary.json"
        )
