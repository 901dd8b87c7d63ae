"""``hpcsamp train``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hpcsamp.cli.options import AcceptEdits


def train(
    config: Annotated[
        str, typer.Argument(help="A TOML file, or the name of a configuration of the package.")
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Run folder (default: runs/ and the config's name)."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change a key, e.g. --set optimizer.lr=1e-3; repeatable."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help='Dataset folder, or "synthetic": made up, beside data.path.'),
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="One of the configuration's presets, e.g. small.")
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on from the newest checkpoint, if there is one."),
    ] = False,
    time_limit: Annotated[
        str | None,
        typer.Option(
            envvar="HPCSAMP_TIME_LIMIT",
            help="Stop with a checkpoint and exit code 75 before so much time is over: minutes or "
            "HH:MM:SS. The end of a Slurm job is known without.",
        ),
    ] = None,
    accept_edits: AcceptEdits = False,
) -> None:
    """Train a Bayesian network: alone, or on every rank under mpirun or srun.

    Ranks form a grid of sample groups (same batch, other weight samples) and data groups (same
    samples, other data); the result does not depend on the grid.
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
            + (f", {seconds:.3f} s a step" if seconds else "")
            + f", parameters {summary['parameters_sha256'][:12]}; {folder}/summary.json"
        )
