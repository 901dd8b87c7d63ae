"""``hpcsamp recalibrate``: temperature scaling and conformal prediction."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hpcsamp.cli.options import AcceptEdits, Quiet, Verbose, check_levels
from hpcsamp.cli.posterior import (
    Checkpoint,
    Data,
    Run,
    Samples,
    Settings,
    Stall,
    posterior_of,
)


def recalibrate(
    run: Run,
    data: Data = None,
    split: Annotated[
        str | None,
        typer.Option(help="Split of the calibration items (default: valid of the run's dataset)."),
    ] = None,
    coverage: Annotated[
        float, typer.Option(help="Coverage of conformal sets and intervals, between 0 and 1.")
    ] = 0.9,
    scaling: Annotated[
        str,
        typer.Option(
            help="Scaling of class probabilities: temperature, vector, isotonic, none or auto "
            "(temperature for labels)."
        ),
    ] = "auto",
    conformal: Annotated[
        str,
        typer.Option(
            help="Conformal score: aps, raps or lac for labels; cqr or normalised for numeric "
            "targets; none or auto (aps; cqr if there are quantiles)."
        ),
    ] = "auto",
    adaptive: Annotated[
        float | None,
        typer.Option(
            help="Rate at which the intervals of a time series adapt, e.g. 0.02 (default: fixed "
            "thresholds)."
        ),
    ] = None,
    raps_penalty: Annotated[
        float,
        typer.Option(help="Penalty in raps for each class ranked below the first --raps-free."),
    ] = 0.01,
    raps_free: Annotated[
        int, typer.Option(help="Number of top-ranked classes without a penalty in raps.")
    ] = 5,
    samples: Samples = None,
    checkpoint: Checkpoint = "last",
    settings: Settings = None,
    stall: Stall = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write the fitted values to this JSON file.")
    ] = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
    accept_edits: AcceptEdits = False,
) -> None:
    """Fit temperature scaling and conformal prediction to a split; later results use them.

    The calibration items must not have been used for training. The fitted values are kept in the
    run folder. hpcsamp evaluate, predict, report and hs.load(RUN).predict use them for the same
    checkpoint and number of samples; --uncalibrated ignores them.

    Examples:

        hpcsamp recalibrate runs/a

        mpirun -n 4 hpcsamp recalibrate runs/a --scaling vector --conformal raps --coverage 0.95
    """
    check_levels(quiet, verbose)
    from hpcsamp.prediction.calibration_fit import Options
    from hpcsamp.watchdog import STALL

    options = Options(scaling, conformal, coverage, raps_penalty, raps_free, adaptive)
    with posterior_of(
        run, settings, samples, checkpoint, stall, run / STALL, recalibrate=False
    ) as posterior:
        from hpcsamp.prediction.recalibrate import recalibrate_run

        result = recalibrate_run(posterior, options, data=data, split=split)
    if posterior.topology.is_root:
        for line in [] if quiet else result["notes"]:
            typer.echo(line)
        _show(run, result, json_file)


def _show(run: Path, result: dict[str, Any], json_file: Path | None) -> None:
    from hpcsamp.cli.output import show
    from hpcsamp.spelling import joined

    rows: list[list[Any]] = []
    for name, of in result["targets"].items():
        scaling, conformal, title = of["scaling"], of["conformal"], result["titles"][name]
        if scaling is not None:
            numbers = f"T = {scaling['temperature']:.5g}" if "temperature" in scaling else None
            rows.append([title, f"{scaling['kind']} scaling", numbers, None])
        if conformal is not None:
            kind = f"conformal, {conformal['score']}"
            if "adaptive" in conformal:
                kind += f", adaptive at {conformal['adaptive']['rate']:g}"
            rows.append([title, kind, f"{conformal['coverage']:.5g}", conformal["items"]])
    of_set = result["dataset"]
    show(
        f"{run}: {result['checkpoint']}, {result['samples']} samples, recalibrated on "
        f"{of_set['items']} items of {of_set['split']}",
        ["target", "fitted", "temperature or coverage", "items"],
        rows,
        json_file=json_file,
        data=result,
    )
    if result["left_out"]:
        print(
            f"not recalibrated: {joined(result['left_out'])} (not fitted for this kind of target)"
        )
