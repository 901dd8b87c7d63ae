"""``hpcsamp bench gpu``: the training step on one GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hpcsamp.cli.options import RANKS


def gpu(
    workload: Annotated[
        str, typer.Option(help="vit-cifar10, mlp-entsoe, swin-era5 or vit-digits.")
    ] = "vit-cifar10",
    samples: Annotated[int, typer.Option(min=1, help="Weight samples S.")] = 16,
    batch: Annotated[int | None, typer.Option(min=1, help="Items per step.")] = None,
    ranks: Annotated[
        int, typer.Option(min=1, help=f"{RANKS}; all share the GPU, in the row of several ranks.")
    ] = 2,
    rounds: Annotated[int, typer.Option(min=1, help="Timed rounds, after one warm-up round.")] = 5,
    steps: Annotated[int, typer.Option(min=1, help="Steps per round.")] = 20,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Set a key; repeatable.")
    ] = None,
    device: Annotated[
        str, typer.Option(help='"cuda", or "cpu" to try the command where there is no GPU.')
    ] = "cuda",
    small: Annotated[bool, typer.Option("--small", help="A small size of the workload.")] = False,
    data: Annotated[str, typer.Option(help='Dataset folder, or "synthetic".')] = "synthetic",
    out: Annotated[Path | None, typer.Option(help="Folder to write the records to.")] = None,
) -> None:
    """Time whole training steps on one GPU: vectorised samples, bfloat16, several ranks on it.

    Plain passes and torch_blue are timed on the same GPU. Without a GPU, the command exits with
    code 2; with --device cpu it runs the same variants on a CPU.

    Examples:

        hpcsamp bench gpu --workload mlp-entsoe --ranks 4 --out records

        hpcsamp bench gpu --workload mlp-entsoe --device cpu --small --rounds 2
    """
    from hpcsamp.bench import gpu as bench
    from hpcsamp.bench import records
    from hpcsamp.cli.output import show
    from hpcsamp.errors import UsageError

    if device == "cuda":
        bench.check()
    elif device != "cpu":
        raise UsageError(f'--device must be "cuda" or "cpu", got {device!r}')
    measured = bench.measure(
        workload, samples, batch, ranks, rounds, steps, tuple(settings or ()), data, device, small
    )
    first = measured[0]
    by = {r["label"]: r for r in measured}
    show(
        f"{workload}, S = {samples}, batch {first['batch']}: whole steps with feed, medians of "
        f"{rounds} rounds",
        ["variant", "ranks", "ms per step", f"speed-up over {bench.LOOP}", "peak memory, MiB"],
        [
            [
                r["label"], r["world_size"], f"{1e3 * r['seconds_per_step']:.4g}",
                f"{first['seconds_per_step'] / r['seconds_per_step']:.3f}",
                f"{bench.peak_mb(r):.0f}",
            ]
            for r in measured
        ],
    )  # fmt: skip
    ratio = bench.peak_mb(by[bench.LOOP]) / bench.peak_mb(by[bench.SINGLE])
    typer.echo(f"peak memory of S = {samples}, {bench.LOOP}, over {bench.SINGLE}: {ratio:.3f}")
    typer.echo(bench.where(first))
    if out is not None:
        records.write(out / "gpu.jsonl", measured)
