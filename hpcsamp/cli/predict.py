"""``hpcsamp predict``: write the posterior predictive to a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from hpcsamp.cli.options import AcceptEdits, Verbose, check_levels
from hpcsamp.cli.posterior import (
    Checkpoint,
    Data,
    Samples,
    Settings,
    Stall,
    Uncalibrated,
    posteriors_of,
)
from hpcsamp.cli.rollout import Items, Members, Perturb, Rollout, Scores, check_rollout, score_lines


def predict(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN... [TABLE]",
            help="Run folder, or several to predict as one mixture; then a csv file, whose rows "
            "to predict instead of a dataset.",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", help="HDF5 file to write; for a table, a csv file; or a zarr store."
        ),
    ],
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
    rollout: Rollout = None,
    members: Members = None,
    items: Items = None,
    perturb: Perturb = None,
    scores: Scores = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the file if it exists.")
    ] = False,
    checkpoint: Checkpoint = "last",
    delimiter: Annotated[
        str | None,
        typer.Option(
            help="Delimiter of the table: ',', ';', '\\t' ... (default, also of the next three "
            "options: as in the table of the training set)."
        ),
    ] = None,
    decimal: Annotated[
        str | None, typer.Option(help="Decimal separator of the table, '.' or ','.")
    ] = None,
    thousands: Annotated[
        str, typer.Option(help="Thousands separator of the table, e.g. '.'.")
    ] = "",
    date_format: Annotated[
        str | None,
        typer.Option(help="Format of times in the table, e.g. '%d.%m.%Y %H:%M'."),
    ] = None,
    uncalibrated: Uncalibrated = False,
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

    With --rollout, forecasts of fields are written: the states of all members at all lead times.

    Several runs are predicted as an ensemble: the mixture of their predictives with equal weights.

    For a csv file, a copy is written with new columns: mean, standard deviations and quantiles of
    each row, or class probabilities. If the run forecasts a time series, the file has the times
    after the last value of the table instead. This runs in one process.

    Examples:

        hpcsamp predict runs/a new.csv --out predictions.csv

        mpirun -n 4 hpcsamp predict runs/a --data data/new --out new.h5 --quantiles 0.1,0.9
    """
    check_levels(quiet, verbose)
    from hpcsamp.cli.output import write_json
    from hpcsamp.errors import UsageError
    from hpcsamp.grid import together
    from hpcsamp.runtime import mpi
    from hpcsamp.watchdog import STALL

    runs, table = _runs_and_table(paths)
    several = len(runs) > 1
    with together(mpi().COMM_WORLD):
        levels = _levels(quantiles)
        notation = {
            "--delimiter": delimiter,
            "--decimal": decimal,
            "--thousands": thousands or None,
            "--date-format": date_format,
        }
        of_rollout = {"--members": members, "--items": items, "--perturb": perturb}
        of_rollout |= {"--scores": 1} if scores else {}
        unused = {
            "--quantiles": quantiles is not None,
            "--keep-samples": keep_samples,
            "--samples": None not in (samples, members),
        }
        check_rollout(rollout, of_rollout, unused, table)
        if several and rollout is not None:
            raise UsageError(f"--rollout takes one run, not {len(runs)}")
        _check(table, out, data, split, notation, mpi().COMM_WORLD.Get_size())
    if table is not None:
        from hpcsamp.prediction.csv_file import form_of, predict_csv
        from hpcsamp.prediction.load import load
        from hpcsamp.prediction.series_table import predict_series, recipe_of
        from hpcsamp.prediction.writer import check_target
        from hpcsamp.spelling import joined

        check_target(out, overwrite)
        options: dict[str, Any] = {"samples": samples, "settings": settings or ()}
        loaded = (
            load(runs, checkpoint, **options)
            if several
            else load(runs[0], checkpoint, recalibrated=not uncalibrated, **options)
        )
        form = form_of(loaded.trained, delimiter, decimal, thousands, date_format)
        how: dict[str, Any] = {"quantiles": levels, "keep_samples": keep_samples}
        of_series = recipe_of(loaded.trained) is not None
        result = (predict_series if of_series else predict_csv)(loaded, table, out, form, **how)
        if json_file is not None:
            write_json(json_file, result)
        if of_series and not quiet:
            for name, end in result["series"].items():
                typer.echo(f"{name}: ".removeprefix(": ") + f"forecast after {end} UTC")
            typer.echo(
                f"{result['items']} rows, {result['samples']} samples, {result['checkpoint']}: "
                f"{out} has the columns {joined(result['columns'])}"
            )
        elif not quiet:
            for name, count in result["filled"].items():
                typer.echo(
                    f"column {name!r}: {count} missing values are filled in as in training (the "
                    f"mean of a number, none of the categories)"
                )
            spare = result["unused"]
            typer.echo(
                f"{result['items']} rows, {result['samples']} samples, {result['checkpoint']}: "
                f"{out} has the new columns {joined(result['columns'])}"
                + (f"; columns that the run does not use: {joined(spare)}" if spare else "")
            )
        return
    from hpcsamp.prediction.mixture import Mixture

    stalled = out.parent / f"{out.name}.{STALL}"
    with posteriors_of(
        runs, settings, members or samples, checkpoint, stall, stalled,
        recalibrate=not (several or uncalibrated),
    ) as posteriors:  # fmt: skip
        posterior = Mixture(posteriors) if several else posteriors[0]
        if rollout is not None:
            from hpcsamp.prediction.rollout.forecast import forecast

            told = forecast(
                posterior, out, rollout, data=data, split=split, items=items,
                perturb=perturb or 0.0, scores=scores, overwrite=overwrite,
            )  # fmt: skip
            if posterior.topology.is_root:
                if json_file is not None:
                    write_json(json_file, told)
                if not quiet:
                    typer.echo(
                        f"{told['items']} items of {told['split']}, {told['members']} members, "
                        f"{told['steps']} lead times, {told['checkpoint']}: {out}"
                    )
                    for line in score_lines(told["scores"]) if scores else ():
                        typer.echo(line)
            return
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


def _runs_and_table(paths: list[Path]) -> tuple[list[Path], Path | None]:
    """Split the arguments: a path with a suffix that is not a folder is a table, if it is last."""
    *runs, last = paths
    if runs and not last.is_dir() and (last.suffix or last.is_file()):
        return runs, last
    return paths, None


def _check(
    table: Path | None,
    out: Path,
    data: Path | None,
    split: str | None,
    notation: Mapping[str, str | None],
    ranks: int,
) -> None:
    """Refuse options for csv files without a csv file, and options for datasets with one."""
    from hpcsamp.errors import UsageError
    from hpcsamp.ingest.tables import check_delimiter

    is_csv = out.suffix.lower() in (".csv", ".tsv", ".txt")
    if table is None and is_csv:
        raise UsageError(
            f"--out {out}: predictions of a dataset are written as HDF5 (such as "
            f"{out.with_suffix('.h5')}); a csv file is written beside the rows of a table: "
            f"hpcsamp predict RUN TABLE.csv --out {out}"
        )
    options = [option for option, value in notation.items() if value is not None]
    if table is None and options:
        raise UsageError(
            f"{options[0]} describes a csv file, but none was given: hpcsamp predict RUN TABLE.csv "
            f"--out PREDICTIONS.csv"
        )
    if table is None:
        return
    if not is_csv:
        raise UsageError(
            f"--out {out}: predictions of a table are written as a table (such as "
            f"{out.with_suffix('.csv')}); for HDF5, name a dataset with --data DIR"
        )
    if data is not None or split is not None:
        raise UsageError(f"all rows of {table} are predicted: leave out --data and --split")
    if table.resolve() == out.resolve():
        raise UsageError(f"--out {out} is the table itself; name another file")
    if ranks > 1:
        raise UsageError(
            f"a table is predicted in one process, not on {ranks} ranks; for a large table, run "
            f"hpcsamp ingest csv {table} --like DATASET, then predict RUN --data DIR"
        )
    check_delimiter(notation["--delimiter"] or ",")


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
