"""``hpcsamp predict``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hpcsamp.cli.options import AcceptEdits, Verbose, check_levels
from hpcsamp.cli.posterior import (
    Checkpoint,
    Data,
    Run,
    Samples,
    Settings,
    Stall,
    posterior_of,
)


def predict(
    run: Run,
    out: Annotated[Path, typer.Option("--out", "-o", help="HDF5 file to write.")],
    data: Data = None,
    split: Annotated[
        str | None, typer.Option(help="Split to predict (default: test, else the first one).")
    ] = None,
    samples: Samples = None,
    quantiles: Annotated[
        str | None,
        typer.Option(help='Quantiles of real targets (default: 0.05,0.5,0.95), or "none".'),
    ] = None,
    keep_samples: Annotated[
        bool, typer.Option("--keep-samples", help="Also write the output of each weight sample.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the file if it exists.")
    ] = False,
    checkpoint: Checkpoint = "last",
    settings: Settings = None,
    stall: Stall = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write a summary with metrics to this file.")
    ] = None,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print warnings and errors only.")
    ] = False,
    verbose: Verbose = False,
    accept_edits: AcceptEdits = False,
) -> None:
    """Write the posterior predictive of every item to one HDF5 file that xarray can open.

    Runs in one process, or on all ranks under mpirun or srun: the ranks of a sample group share the
    weight samples, data groups share the items, and all ranks write.

    Examples:

        hpcsamp predict runs/a --out predictions.h5

        mpirun -n 4 hpcsamp predict runs/a --data data/new --out new.h5 --quantiles 0.1,0.9
    """
    check_levels(quiet, verbose)
    from hpcsamp.cli.output import write_json
    from hpcsamp.grid import together
    from hpcsamp.runtime import mpi
    from hpcsamp.watchdog import STALL

    with together(mpi().COMM_WORLD):
        levels = _levels(quantiles)
    stalled = out.parent / f"{out.name}.{STALL}"
    with posterior_of(run, settings, samples, checkpoint, stall, stalled) as posterior:
        from hpcsamp.prediction.predict import predict as predict_run

        result = predict_run(
            posterior,
            out,
            data=data,
            split=split,
            quantiles=levels,
            keep_samples=keep_samples,
            overwrite=overwrite,
        )
    if posterior.topology.is_root:
        if json_file is not None:
            write_json(json_file, result)
        for line in result["notes"]:
            typer.echo(line)
        if not quiet:
            typer.echo(
                f"{result['items']} items of {result['split']}, {result['samples']} samples, "
                f"{result['checkpoint']}: {out}"
            )


def _levels(text: str | None) -> list[float] | None:
    """Parse quantile levels such as ``0.05,0.5``, each between 0 and 1."""
    from hpcsamp.errors import UsageError

    if text is None:
        return None
    if text.strip().lower() in ("", "none"):
        return []
    try:
        levels = [float(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(
            f"--quantiles {text!r}: must be numbers separated by commas, e.g. 0.05,0.5,0.95"
        ) from None
    for level in levels:
        if not 0 < level < 1:
            raise UsageError(f"--quantiles {text!r}: {level:g} is not between 0 and 1")
    return levels
