"""``hpcsamp predict``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hpcsamp.cli.options import AcceptEdits


def predict(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="HDF5 file to write.")],
    data: Annotated[
        Path | None, typer.Option(help="Dataset of the same meaning (default: the run's own).")
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="Which split (default: test, or the first there is).")
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(
            min=1, help="Samples of the predictive (default: evaluation.samples, else the method's)"
        ),
    ] = None,
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
    checkpoint: Annotated[
        str, typer.Option(help='"last", "best", or the path of a checkpoint.')
    ] = "last",
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Change a key, e.g. data.path=...")
    ] = None,
    stall: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Seconds without a sign of life of a rank that end the job (default: the run's).",
        ),
    ] = None,
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
    from hpcsamp.grid import init, together
    from hpcsamp.run.folder import RunFolder
    from hpcsamp.runtime import mpi

    folder = RunFolder(run)
    with together(mpi().COMM_WORLD):
        levels = _levels(quantiles)
        config = folder.config(settings or ())
    topology = init(config.parallel.samples, device=config.parallel.device)
    from hpcsamp.prediction.posterior import Posterior
    from hpcsamp.prediction.predict import predict as predict_run
    from hpcsamp.run.restore import restore
    from hpcsamp.watchdog import STALL
    from hpcsamp.watchdog.dog import Watchdog

    seconds = config.training.stall if stall is None else stall
    with Watchdog(topology.world, seconds, out.parent / f"{out.name}.{STALL}"):
        restored = restore(folder, config, topology, samples=samples, which=checkpoint)
        result = predict_run(
            Posterior(restored, topology),
            out,
            data=data,
            split=split,
            quantiles=levels,
            keep_samples=keep_samples,
            overwrite=overwrite,
        )
    if topology.is_root:
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
