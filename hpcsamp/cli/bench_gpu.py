"""``hpcsamp bench gpu``: the training step on one GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hpcsamp.cli.options import RANKS


def gpu(
    workload: Annotated[
        list[str] | None,
        typer.Option(
            help="vit-cifar10, mlp-entsoe, swin-era5, vit-digits, 13-50-1 or 96-128-128-24; "
            "repeatable (default: those with performance goals; with --small vit-cifar10)."
        ),
    ] = None,
    samples: Annotated[
        int | None, typer.Option(min=1, help="Weight samples S (default: 16; 4 with --small).")
    ] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Items per step (default: 8 with --small).")
    ] = None,
    ranks: Annotated[
        int,
        typer.Option(min=1, help=f"{RANKS}; they share the GPU in the variant with several ranks."),
    ] = 2,
    rounds: Annotated[
        int | None,
        typer.Option(min=1, help="Timed rounds, after one warm-up round (5; 2 with --small)."),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Steps per round (20; 2 with --small).")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Set a configuration key; repeatable.")
    ] = None,
    device: Annotated[
        str, typer.Option(help='"cuda", or "cpu" to try the command without a GPU.')
    ] = "cuda",
    small: Annotated[
        bool, typer.Option("--small", help="Use a small size of the workload.")
    ] = False,
    data: Annotated[str, typer.Option(help='Dataset folder, or "synthetic".')] = "synthetic",
    out: Annotated[Path | None, typer.Option(help="Folder to write the records to.")] = None,
) -> None:
    """Time whole training steps on one GPU, and compare them with performance goals.

    Plain passes and torch_blue are timed on the same GPU in the same precision. Without a GPU, the
    command exits with code 2; with --device cpu it runs the same variants on a CPU.

    Examples:

        hpcsamp bench gpu --workload vit-cifar10 --ranks 4 --out records

        hpcsamp bench gpu --device cpu --small
    """
    import tempfile

    from hpcsamp.bench import gpu as bench
    from hpcsamp.bench import records
    from hpcsamp.cli.output import show
    from hpcsamp.errors import UsageError

    if device == "cuda":
        bench.check()
    elif device != "cpu":
        raise UsageError(f'--device must be "cuda" or "cpu", got {device!r}')
    if ranks > 1 and not bench.can_start_ranks():
        typer.echo(f"mpirun was not found: the variant with {ranks} ranks is left out", err=True)
    measured = []
    samples, rounds = samples or (4 if small else 16), rounds or (2 if small else 5)
    batch = batch or (8 if small else None)
    for name in workload or bench.USUAL[: 1 if small else None]:
        with tempfile.TemporaryDirectory() as folder:
            experiment = bench.experiment(
                name,
                Path(folder),
                steps or (2 if small else 20),
                tuple(settings or ()),
                data,
                small,
            )
            found = bench.measure(experiment, samples, batch, ranks, rounds, device)
        measured += found
        first = found[0]
        show(
            f"{name}, S = {samples}, batch {first['batch']}: whole steps including data loading, "
            f"medians of "
            f"{rounds} rounds",
            ["variant", "ranks", "ms per step", f"speed-up over {bench.LOOP}", "peak memory, MiB"],
            [
                [
                    r["label"], r["world_size"], f"{1e3 * r['seconds_per_step']:.4g}",
                    f"{found[1]['seconds_per_step'] / r['seconds_per_step']:.3f}",
                    f"{bench.peak_mb(r):.0f}",
                ]
                for r in found
            ],
        )  # fmt: skip
        met = {None: "needs a GPU", True: "yes", False: "no"}
        show(
            f"{name}: bounds",
            ["ratio", "value", "min", "max", "goal (H100, H200)", "met"],
            [
                [row["what"], *(f"{row[k]:.3f}" for k in ("ratio", "min", "max")), row["goal"],
                 met[row["met"]]]
                for row in bench.bounds(name, found)
            ],
        )  # fmt: skip
        for line in (*bench.notes(found), bench.where(first)):
            typer.echo(line)
    if out is not None:
        records.write(out / "gpu.jsonl", measured)
