"""``hpcsamp bench memory``: measured and predicted memory of training steps."""

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
        list[str] | None, typer.Option("--set", help="Set a configuration key; repeatable.")
    ] = None,
    data: Annotated[str, typer.Option(help='Dataset folder, or "synthetic".')] = "synthetic",
    steps: Annotated[int, typer.Option(min=1, help="Number of training steps.")] = 2,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write the table to this JSON file.")
    ] = None,
) -> None:
    """Measure the peak memory of each rank in a few training steps and compare the prediction.

    Start the command with mpirun or srun. Shared memory is counted once and divided among the ranks
    that use it. The last rows describe a step after which a checkpoint is written; evaluations are
    not measured.

    Examples:

        mpirun -n 2 hpcsamp bench memory vit-digits

        mpirun -n 4 hpcsamp bench memory mixer-era5 --preset small --set parallel.model=2
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
    base, process = found["predicted_process"], found["process"]
    rows: list[list[str | int | float | bool | None]] = [
        [name, f"{size / 2**20:.0f}", "", ""] for name, size in found["parts"].items()
    ]

    def compared(name: str, predicted: float, measured: list[float]) -> None:
        most = max(measured)
        rows.append([name, f"{predicted:.0f}", f"{most:.0f}", f"{most / predicted:.3f}"])

    def alone(measured: list[float]) -> list[float]:
        return [of - own for of, own in zip(measured, process, strict=True)]

    compared("process without the run", base, process)
    compared("steps", found["predicted"], found["stepping"])
    compared("steps, less the process", found["predicted"] - base, alone(found["stepping"]))
    if found["keeping"] is not None:
        keeping = found["predicted_keeping"]
        compared("steps and a checkpoint", keeping, found["keeping"])
        compared(
            "steps and a checkpoint, less the process", keeping - base, alone(found["keeping"])
        )
    rows.append(["while the run is built", "", f"{max(found['building']):.0f}", ""])
    title = (
        f"Memory of the rank that uses most, on D x P x M = {d} x {p} x {m}, optimizer.sharded = "
        f"{found['sharded']}, {found['trained']:,} trained parameters per model rank; the last "
        f"step took {found['seconds']:.2f} s"
    )
    columns = ["part", "predicted MiB", "measured MiB", "measured / predicted"]
    show(title, columns, rows, json_file, found)
