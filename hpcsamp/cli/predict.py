"""``hpcsamp predict``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hpcsamp.cli.options import AcceptEdits
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
        str | None, typer.Option(help="Which split (default: test, or the first there is).")
    ] = None,
    samples: Samples = None,
    quantiles: Annotated[
        str | None,
        typer.Option(help='Of values, e.g. 0.05,0.5,0.95 (the default); "none" for none.'),
    ] = None,
    keep_samples: Annotated[
        bool, typer.Option("--keep-samples", help="Also write what every weight sample says.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the file if it is there.")
    ] = False,
    checkpoint: Checkpoint = "last",
    settings: Settings = None,
    stall: Stall = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write what was done, with metrics, here.")
    ] = None,
    accept_edits: AcceptEdits = False,
) -> None:
    """Write the posterior predictive of every item to one HDF5 file, that xarray opens.

    Alone, or on every rank under mpirun or srun: samples are split over sample groups, items over
    data groups, and all ranks write.
    """
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
        typer.echo(
            f"{result['items']} items of {result['split']}, {result['samples']} samples, "
            f"{result['checkpoint']}: {out}"
        )


def _levels(text: str | None) -> list[float] | None:
    """``0.05,0.5`` as numbers within 0 and 1."""
    from hpcsamp.errors import UsageError

    if text is None:
        return None
    if text.strip().lower() in ("", "none"):
        return []
    try:
        levels = [float(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"--quantiles {text!r}: numbers with commas are needed") from None
    for level in levels:
        if not 0 < level < 1:
            raise UsageError(f"--quantiles {text!r}: {level:g} is not between 0 and 1")
    return levels
