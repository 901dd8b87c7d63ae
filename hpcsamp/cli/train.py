"""``hpcsamp train``: train a Bayesian neural network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hpcsamp.cli.options import AcceptEdits, Quiet, check_levels
from hpcsamp.cli.options import verbose as verbose_option
from hpcsamp.errors import UsageError

if TYPE_CHECKING:
    from hpcsamp.config import RunConfig


def train(
    config: Annotated[
        str | None,
        typer.Argument(
            help="A TOML file, or the name of a packaged configuration. Without it, a "
            "configuration that fits the dataset of --data is chosen."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Run folder (default: runs/NAME, with the name of the configuration).",
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="Set a configuration key, e.g. --set optimizer.lr=1e-3; repeatable."
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help='Dataset folder; "synthetic" generates a dataset next to data.path.'),
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
            help="Time limit as minutes or HH:MM:SS; before it, write a checkpoint and exit with "
            "code 75. The time limit of a Slurm job is detected automatically.",
        ),
    ] = None,
    print_config: Annotated[
        bool,
        typer.Option("--print-config", help="Print the configuration as TOML and exit."),
    ] = False,
    quiet: Quiet = False,
    verbose: Annotated[
        bool, verbose_option("Also print a line for each step, and how the data are read.")
    ] = False,
    profile: Annotated[
        bool,
        typer.Option(
            "--profile",
            help="Record a few steps: a timeline of each rank in RUN/profile, and a table of the "
            "time in each phase that names the slowest rank.",
        ),
    ] = False,
    accept_edits: AcceptEdits = False,
) -> None:
    """Train a Bayesian neural network in one process, or on all ranks under mpirun or srun.

    Ranks form a grid of sample groups (same batch, different weight samples) and data groups (same
    samples, different data); the result does not depend on the grid.

    Examples:

        hpcsamp train --data data/digits

        mpirun -n 4 hpcsamp train vit-digits --set optimizer.lr=1e-3
    """
    check_levels(quiet, verbose)
    from hpcsamp.grid import init, together
    from hpcsamp.runtime import mpi

    world = mpi().COMM_WORLD
    with together(world):
        limit = [f'training.time_limit="{time_limit}"'] if time_limit else []
        run, name, text = _load(config, data, [*(settings or ()), *limit], preset)
    if print_config:
        if world.Get_rank() == 0:
            typer.echo(text, nl=False)
        return
    topology = init(run.parallel.samples, model=run.parallel.model, device=run.parallel.device)
    if config is None and topology.is_root and not quiet:
        typer.echo(f"no configuration was given; this one was chosen for {data}:\n")
        typer.echo("".join(f"    {line}".rstrip() + "\n" for line in text.splitlines()))
        typer.echo(f"to change it: hpcsamp train --data {data} --print-config > mine.toml")
    if config is None and data is not None and topology.is_root:
        from hpcsamp.run.usual import few_items

        for line in few_items(data):
            typer.echo(f"hpcsamp: warning: {line}", err=True)
    from hpcsamp.cli.profile import show_profile
    from hpcsamp.run.prepare import prepare
    from hpcsamp.training.loop import train as train_run
    from hpcsamp.training.timeline import Timeline
    from hpcsamp.watchdog import STALL
    from hpcsamp.watchdog.dog import Watchdog

    folder = output or Path("runs") / name
    with Watchdog(topology.world, run.training.stall, folder / STALL) as watchdog:
        if topology.is_root and not quiet:
            typer.echo(watchdog.describe())
        run = prepare(run, data, topology.world)
        timeline = Timeline(topology) if profile else None
        callbacks = [timeline] if timeline else ()
        summary = train_run(
            run, topology, folder, resume, callbacks=callbacks, quiet=quiet, verbose=verbose
        )
    if timeline is not None:
        show_profile(timeline, folder / "profile")
    if topology.is_root:
        seconds = summary["seconds_per_step"]
        typer.echo(
            f"done: {summary['steps']} steps"
            + (f", {seconds:.3f} s per step" if seconds else "")
            + f", parameters {summary['parameters_sha256'][:12]}; {folder}/summary.json"
        )


def _load(
    config: str | None, data: str | None, overrides: list[str], preset: str | None
) -> tuple[RunConfig, str, str]:
    """Return the configuration of a run, the name of the run, and the configuration as TOML."""
    from hpcsamp import config as configuration
    from hpcsamp.run.prepare import SYNTHETIC
    from hpcsamp.run.usual import usual

    if config is not None:
        if data is not None and data != SYNTHETIC:
            overrides = [*overrides, f"data.path={configuration.toml_value(data)}"]
        run = configuration.load(config, overrides, preset=preset)
        name = "-".join([Path(config).stem, *([preset] if preset else [])])
        return run, name, configuration.to_toml(run)
    if data is None or data == SYNTHETIC:
        raise UsageError(
            "name a configuration (hpcsamp train vit-digits) or a dataset folder (hpcsamp train "
            "--data DIR)"
        )
    if preset is not None:
        raise UsageError(f"--preset {preset} needs a configuration that has presets; name one")
    text = usual(data)
    table = configuration.apply_overrides(configuration.parse_toml(text, data), overrides)
    run = configuration.check(table, f"the configuration for {data}")
    if overrides:  # the comments of the text may no longer hold
        text = f"{text.splitlines()[0]}\n{configuration.chosen_toml(table)}"
    return run, Path(data).resolve().name, text
