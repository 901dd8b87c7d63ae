"""``hpcsamp ingest SOURCE --out DIR``: raw data into a dataset folder, also under mpirun."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from hpcsamp.ingest.source import Source

app = typer.Typer(help="Write raw data into a dataset folder of HDF5 shards.", no_args_is_help=True)

Out = Annotated[Path, typer.Option("--out", "-o", help="Folder to make.")]
Overwrite = Annotated[bool, typer.Option(help="Replace a dataset that is there.")]
ShardMb = Annotated[float, typer.Option(min=0.001, help="Size a shard aims at, in MB.")]
File = Annotated[Path, typer.Argument(help="File to read.")]
Valid = Annotated[float, typer.Option(min=0, max=1, help="Part of the items held out as valid.")]
Test = Annotated[float, typer.Option(min=0, max=1, help="Part of the items held out as test.")]
SplitSeed = Annotated[int, typer.Option(min=0, help="Seed of the random split.")]
NormalizeY = Annotated[bool, typer.Option(help="Standardise targets in training.")]
TaskName = Literal["classification", "regression"]


def run(make: Callable[[], Source], out: Path, overwrite: bool, shard_mb: float) -> None:
    """Make a source on every rank and write it together."""
    from hpcsamp.ingest import build
    from hpcsamp.runtime import install_excepthook, mpi
    from hpcsamp.topology import together

    comm = mpi().COMM_WORLD
    install_excepthook()
    with together(comm):
        source = make()
    root = comm.Get_rank() == 0
    if root:
        for line in source.report:
            typer.echo(line)

    def progress(done: int, total: int) -> None:
        if total > 1:
            typer.echo(f"shard {done} of {total}")

    manifest = build(
        source,
        out,
        comm=comm,
        shard_bytes=int(shard_mb * 1e6),
        overwrite=overwrite,
        progress=progress,
    )
    if root:
        counts = ", ".join(f"{name} {count:,}" for name, count in manifest.splits.items())
        size = sum(s.size for s in manifest.shards) / 1e6
        typer.echo(f"{out}: {counts} items in {len(manifest.shards)} shards, {size:,.1f} MB")


@app.command("digits")
def digits(out: Out, overwrite: Overwrite = False, shard_mb: ShardMb = 256) -> None:
    """The 1,797 handwritten digits that scikit-learn ships (8 x 8 pixels, 10 classes)."""
    from hpcsamp.ingest.digits import digits as source

    run(source, out, overwrite, shard_mb)


@app.command("npz")
def npz(
    file: File,
    out: Out,
    task: Annotated[
        TaskName | None, typer.Option(help="What y is; by default its type decides.")
    ] = None,
    valid: Valid = 0.1,
    test: Test = 0.2,
    seed: SplitSeed = 0,
    normalize_y: NormalizeY = False,
    overwrite: Overwrite = False,
    shard_mb: ShardMb = 256,
) -> None:
    """Arrays x and y of an .npz file (and x_valid, y_valid, x_test, y_test if they are there)."""
    from hpcsamp.ingest.tables import npz as source

    fractions = {"valid": valid, "test": test}
    run(
        lambda: source(file, task=task, fractions=fractions, seed=seed, normalize_y=normalize_y),
        out,
        overwrite,
        shard_mb,
    )


@app.command("csv")
def csv(
    file: File,
    out: Out,
    target: Annotated[list[str], typer.Option(help="Column of y; may be given several times.")],
    feature: Annotated[
        list[str] | None, typer.Option(help="Column of x; by default all that are no target.")
    ] = None,
    delimiter: Annotated[str, typer.Option(help="Between cells.")] = ",",
    task: Annotated[TaskName, typer.Option(help="What y is.")] = "regression",
    valid: Valid = 0.1,
    test: Test = 0.2,
    seed: SplitSeed = 0,
    normalize_y: NormalizeY = False,
    overwrite: Overwrite = False,
    shard_mb: ShardMb = 256,
) -> None:
    """A table of numbers with a header line."""
    from hpcsamp.ingest.tables import table as source

    run(
        lambda: source(
            file,
            target,
            features=feature or [],
            delimiter=delimiter,
            task=task,
            fractions={"valid": valid, "test": test},
            seed=seed,
            normalize_y=normalize_y,
        ),
        out,
        overwrite,
        shard_mb,
    )
