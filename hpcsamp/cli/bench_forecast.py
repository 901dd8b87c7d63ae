"""``hpcsamp bench forecast``: forecasts of runs against those of statistical models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


def forecast(
    data: Annotated[
        Path, typer.Argument(help="Dataset folder made by hpcsamp ingest series.", metavar="DATA")
    ],
    runs: Annotated[
        list[Path] | None, typer.Argument(help="Run folders.", metavar="RUN...")
    ] = None,
    split: Annotated[str, typer.Option(help="Split whose windows are forecast.")] = "test",
    baselines: Annotated[
        list[str] | None,
        typer.Option(
            "--baseline", help="naive, ets, sarima, boosting or none; repeatable (default: all)."
        ),
    ] = None,
    seasons: Annotated[
        list[int] | None,
        typer.Option("--season", help="Season in steps; repeatable (default: a day and a week)."),
    ] = None,
    steps: Annotated[
        int,
        typer.Option(min=1, help="Values at the end of train for ETS and SARIMA."),
    ] = 2016,
    groups: Annotated[int, typer.Option(min=1, help="Number of groups of lead times.")] = 4,
    coverage: Annotated[
        float, typer.Option(help="Intended coverage of intervals, between 0 and 1.")
    ] = 0.9,
    samples: Annotated[
        int | None, typer.Option(min=1, help="Samples of a run (default: as it evaluates).")
    ] = None,
    uncalibrated: Annotated[
        bool, typer.Option("--uncalibrated", help="Ignore the recalibration of runs.")
    ] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write the table to this JSON file.")
    ] = None,
) -> None:
    """Compare forecasts of runs with seasonal naive, ETS, SARIMA and boosted quantiles.

    All of them forecast every window of a split of a series set; its windows are rolling origins.
    Baselines are fitted once to the training part, and are not fitted again at later origins. Of
    runs that differ in their seed alone, the mean and the standard deviation of each score are
    shown, too. Runs in one process.

    Examples:

        hpcsamp bench forecast data/load runs/mlp runs/temporal

        hpcsamp bench forecast data/load runs/mlp --baseline naive --json forecast.json
    """
    from hpcsamp.bench.forecast.compare import BASELINES, Options, compare
    from hpcsamp.bench.forecast.scores import over_seeds
    from hpcsamp.calibration.quantile import check_level
    from hpcsamp.cli.output import show
    from hpcsamp.errors import UsageError
    from hpcsamp.spelling import suggest

    check_level(coverage)
    chosen = [b for b in baselines or BASELINES if b != "none"]
    for name in chosen:
        if name not in BASELINES:
            raise UsageError(
                f"--baseline {name!r}{suggest(name, [*BASELINES, 'none'])}; choose from "
                f"{', '.join(BASELINES)} and none"
            )
    options = Options(
        split, chosen, seasons or (), steps, groups, coverage, samples, not uncalibrated
    )
    found = compare(data, runs or [], options)
    rows: list[dict[str, Any]] = []
    for of, seconds in found.found:
        for lead, leads in found.groups.items():
            rows.append({"forecast": of.name, "lead": lead, **of.over(leads)})
            rows[-1] |= {"note": of.note, "seconds": seconds} if lead == "all" else {}
    for lead, leads in found.groups.items():
        rows += [{"lead": lead, **row} for row in over_seeds([of for of, _ in found.found], leads)]
    show(
        f"{data}, {split}: {found.origins} origins, intervals for a coverage of {coverage:g}",
        ["forecast", "lead time", "crps", "mae", "rmse", "coverage", "width"],
        [
            [row["forecast"], row["lead"], *(row[k] for k in ("crps", "mae", "rmse")),
             f"{row['coverage']:.3f}", row["width"]]
            for row in rows
        ],
        json_file=json_file,
        data={"data": str(data), "split": split, "origins": found.origins, "rows": rows},
    )  # fmt: skip
    for of, seconds in found.found:
        typer.echo(f"{of.name}: {of.note} ({seconds:.3g} s)")
