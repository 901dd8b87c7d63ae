"""``hpcsamp bench memory``: memory of training steps, measured and predicted."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def memory(
    config: Annotated[
        str, typer.Argument(help="A TOML file, or the name of a configuration.")
    ] = "mixer-era5",
    preset: Annotated[str | None, typer.Option(help="One of the configuration's presets.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Change a key; repeatable.")
    ] = None,
    data: Annotated[str, typer.Option(help='Dataset folder, or "synthetic".')] = "synthetic",
    steps: Annotated[int, typer.Option(min=1, help="Steps that are taken.")] = 2,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write it here.")] = None,
) -> None:
    """Measure the largest memory of each rank in a few training steps, beside the prediction.

    To be started by mpirun or srun. Evaluations and checkpoints are not in it.
    """
    from hpcsamp import config as configuration
    from hpcsamp.bench import memory as bench
    from hpcsamp.cli.output import show
    from hpcsamp.runtime import mpi

    comm = mpi().COMM_WORLD
    found = bench.measure(
        configuration.load(config, settings or (), preset=preset), data, steps, comm
    )
    if comm.rank:
        return
    d, p, m = found["grid"]
    most = max(found["stepping"])
    rows: list[list[str | int | float | bool | None]] = [
        [name, f"{size / 2**20:.0f}"] for name, size in found["parts"].items()
    ]
    rows += [
        ["predicted", f"{found['predicted']:.0f}"],
        ["measured in the steps, the fullest rank", f"{most:.0f}"],
        ["the emptiest rank", f"{min(found['stepping']):.0f}"],
        ["while the run was built, the fullest rank", f"{max(found['building']):.0f}"],
        ["measured / predicted", f"{most / found['predicted']:.3f}"],
    ]
    title = (
        f"Memory of a rank on D x P x M = {d} x {p} x {m}, optimizer.sharded = {found['sharded']}, "
        f"{found['trained']:,} trained numbers a model rank"
    )
    show(title, ["part", "MiB"], rows, json_file, found)
