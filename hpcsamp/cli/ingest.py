"""``hpcsamp ingest SOURCE --out DIR``: raw data into a dataset folder, also under mpirun."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from hpcsamp.watchdog import DEFAULT

if TYPE_CHECKING:
    from hpcsamp.data.manifest import Manifest
    from hpcsamp.ingest.source import Source

app = typer.Typer(help="Write raw data into a dataset folder of HDF5 shards.", no_args_is_help=True)

Out = Annotated[Path, typer.Option("--out", "-o", help="Folder to make.")]
Overwrite = Annotated[bool, typer.Option(help="Replace a dataset that is there.")]
Stall = Annotated[
    float,
    typer.Option(min=0, help="Seconds without a sign of life of a rank that end the job."),
]
ShardMb = Annotated[float, typer.Option(min=0.001, help="Size a shard aims at, in MB.")]
File = Annotated[Path, typer.Argument(help="File to read.")]
Valid = Annotated[float, typer.Option(min=0, max=1, help="Part of the items held out as valid.")]
Test = Annotated[float, typer.Option(min=0, max=1, help="Part of the items held out as test.")]
SplitSeed = Annotated[int, typer.Option(min=0, help="Seed of the random split.")]
NormalizeY = Annotated[bool, typer.Option(help="Standardise targets in training.")]
TaskName = Literal["classification", "regression"]
Decimal = Annotated[str | None, typer.Option(help="Decimal separator, '.' or ','; by default '.'.")]
Thousands = Annotated[str, typer.Option(help="What separates thousands, e.g. '.'.")]


def run(
    make: Callable[[], Source], out: Path, overwrite: bool, shard_mb: float, stall: float
) -> None:
    """Make a source on every rank and write it together."""
    from hpcsamp.errors import UsageError
    from hpcsamp.grid import together
    from hpcsamp.runtime import install_excepthook, mpi
    from hpcsamp.watchdog import STALL
    from hpcsamp.watchdog.dog import Watchdog

    install_excepthook()
    comm = mpi().COMM_WORLD
    from hpcsamp.ingest import build

    root = comm.Get_rank() == 0
    with Watchdog(comm, stall, out.parent / f"{out.name}.{STALL}"):
        with together(comm):
            if not math.isfinite(shard_mb):
                raise UsageError(f"--shard-mb {shard_mb}: a finite number is needed")
            source = make()
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
        for line in constants(manifest):
            typer.echo(line)
        counts = ", ".join(f"{name} {count:,}" for name, count in manifest.splits.items())
        size = sum(s.size for s in manifest.shards) / 1e6
        typer.echo(f"{out}: {counts} items in {len(manifest.shards)} shards, {size:,.1f} MB")


def constants(manifest: Manifest) -> list[str]:
    """A line for inputs and targets that do not vary in train."""
    lines = []
    for array, key in (("x", "columns"), ("y", "targets")):
        stats = manifest.stats.get(array)
        names = manifest.source.get(key, [])
        flat = [i for i, std in enumerate(stats.std) if std == 0] if stats else []
        if flat:
            shown = ", ".join(names[i] if i < len(names) else f"channel {i}" for i in flat[:10])
            more = f" and {len(flat) - 10} more" if len(flat) > 10 else ""
            lines.append(f"constant in train, so without information: {shown}{more} of {array}")
    return lines


@app.command("digits")
def digits(
    out: Out, overwrite: Overwrite = False, shard_mb: ShardMb = 256, stall: Stall = DEFAULT
) -> None:
    """The 1,797 handwritten digits that scikit-learn ships (8 x 8 pixels, 10 classes)."""
    from hpcsamp.ingest.digits import digits as source

    run(source, out, overwrite, shard_mb, stall)


@app.command("npz")
def npz(
    file: File,
    out: Out,
    task: Annotated[
        TaskName | None, typer.Option(help="What y is; by default its type decides.")
    ] = None,
    layout: Annotated[
        Literal["chw", "hwc", "hw"] | None,
        typer.Option(help="Axes of an image in x: channels first, last, or none."),
    ] = None,
    inputs: Annotated[
        Literal["ids", "numbers"] | None,
        typer.Option(help="What whole numbers in x are; numbers are standardised."),
    ] = None,
    valid: Valid = 0.1,
    test: Test = 0.2,
    seed: SplitSeed = 0,
    normalize_y: NormalizeY = False,
    overwrite: Overwrite = False,
    shard_mb: ShardMb = 256,
    stall: Stall = DEFAULT,
) -> None:
    """Arrays x and y of an .npz file (and x_valid, y_valid, x_test, y_test if they are there)."""
    from hpcsamp.ingest.npz import npz as source

    run(
        lambda: source(
            file,
            task=task,
            layout=layout,
            inputs=inputs,
            fractions={"valid": valid, "test": test},
            seed=seed,
            normalize_y=normalize_y,
        ),
        out,
        overwrite,
        shard_mb,
        stall,
    )


@app.command("csv")
def csv(
    file: File,
    out: Out,
    target: Annotated[list[str], typer.Option(help="Column of y; may be given several times.")],
    feature: Annotated[
        list[str] | None, typer.Option(help="Column of x; by default all that are no target.")
    ] = None,
    delimiter: Annotated[str, typer.Option(help="Between cells: ',', ';', '\\t' ...")] = ",",
    decimal: Decimal = None,
    thousands: Thousands = "",
    task: Annotated[TaskName, typer.Option(help="What y is.")] = "regression",
    valid: Valid = 0.1,
    test: Test = 0.2,
    seed: SplitSeed = 0,
    normalize_y: NormalizeY = False,
    overwrite: Overwrite = False,
    shard_mb: ShardMb = 256,
    stall: Stall = DEFAULT,
) -> None:
    """A table of numbers with a header line."""
    from hpcsamp.ingest.numbers import Notation
    from hpcsamp.ingest.tables import table as source

    run(
        lambda: source(
            file,
            target,
            features=feature or [],
            delimiter=delimiter,
            notation=Notation(decimal, thousands),
            task=task,
            fractions={"valid": valid, "test": test},
            seed=seed,
            normalize_y=normalize_y,
        ),
        out,
        overwrite,
        shard_mb,
        stall,
    )


@app.command("cifar10")
def cifar10(
    file: File,
    out: Out,
    overwrite: Overwrite = False,
    shard_mb: ShardMb = 256,
    stall: Stall = DEFAULT,
) -> None:
    """CIFAR-10 from its official archive (python or binary version)."""
    from hpcsamp.ingest.cifar10 import cifar10 as source

    run(lambda: source(file), out, overwrite, shard_mb, stall)


@app.command("entsoe")
def entsoe(
    files: Annotated[list[Path], typer.Argument(help="Csv files to read.")],
    out: Out,
    valid: Valid = 0.1,
    test: Test = 0.1,
    fill: Annotated[
        float, typer.Option(min=0, max=1, help="Largest part of the values to interpolate.")
    ] = 0.01,
    decimal: Decimal = None,
    thousands: Thousands = "",
    overwrite: Overwrite = False,
    shard_mb: ShardMb = 256,
    stall: Stall = DEFAULT,
) -> None:
    """German electricity load: ENTSO-E transparency or Open Power System Data csv at 15 minutes."""
    from hpcsamp.ingest.entsoe import entsoe as source
    from hpcsamp.ingest.numbers import Notation

    def make() -> Source:
        notation = Notation(decimal, thousands)
        return source(files, valid=valid, test=test, fill=fill, notation=notation)

    run(make, out, overwrite, shard_mb, stall)


@app.command("era5")
def era5(
    store: Annotated[str, typer.Argument(help="WeatherBench 2 zarr store: a folder or URL.")],
    out: Out,
    start: Annotated[str | None, typer.Option(help="First time, e.g. 1980-01-01.")] = None,
    stop: Annotated[str | None, typer.Option(help="Last time, e.g. 2020-12-31.")] = None,
    every: Annotated[int, typer.Option(min=1, help="Hours between items.")] = 3,
    lead: Annotated[int, typer.Option(min=1, help="Hours from input to target.")] = 6,
    valid: Valid = 0.1,
    test: Test = 0.1,
    overwrite: Overwrite = False,
    shard_mb: ShardMb = 512,
    stall: Stall = DEFAULT,
) -> None:
    """ERA5 weather states at 1.5 degrees: 76 channels in, 69 variables some hours later out."""
    from hpcsamp.ingest.era5 import era5 as source

    def make() -> Source:
        return source(store, start=start, stop=stop, every=every, lead=lead, valid=valid, test=test)

    run(make, out, overwrite, shard_mb, stall)


@app.command("synthetic")
def synthetic(
    out: Out,
    like: Annotated[
        Literal["digits", "cifar10", "entsoe", "era5"], typer.Option(help="Set to resemble.")
    ],
    items: Annotated[int, typer.Option(min=10, help="In all splits together.")],
    seed: Annotated[int, typer.Option(min=0, help="Of the data.")] = 0,
    compression: Annotated[
        Literal["gzip", "lzf"] | None, typer.Option(help="Filter of the chunks.")
    ] = None,
    grid: Annotated[
        tuple[int, int] | None,
        typer.Option(help="Latitudes and longitudes of era5, e.g. 24 48 (default: 121 240)."),
    ] = None,
    overwrite: Overwrite = False,
    shard_mb: ShardMb = 256,
    stall: Stall = DEFAULT,
) -> None:
    """Made-up items in the shape of a real set, to try and time everything without a download."""
    from hpcsamp.ingest.synthetic import synthetic as source

    run(
        lambda: source(like, items, seed=seed, compression=compression, grid=grid),
        out,
        overwrite,
        shard_mb,
        stall,
    )
