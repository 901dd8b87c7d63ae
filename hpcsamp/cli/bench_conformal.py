"""``hpcsamp bench conformal``: measured coverage of conformal intervals against the theory."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer


def conformal(
    coverage: Annotated[float, typer.Option(help="Coverage, between 0 and 1.")] = 0.9,
    rate: Annotated[
        float, typer.Option(help="Rate at which adaptive intervals are updated.")
    ] = 0.02,
    seed: Annotated[
        int, typer.Option(min=0, help="Seed of the fits, the splits and the series.")
    ] = 0,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write the table to this JSON file.")
    ] = None,
) -> None:
    """Measure the coverage of conformal intervals over many fits and over a drifting time series.

    The intervals are those of 20 fits to scikit-learn's diabetes data with 10 calibration sets
    each, and those of a series whose spread grows eightfold and returns.

    Examples:

        hpcsamp bench conformal

        hpcsamp bench conformal --coverage 0.8 --json conformal.json
    """
    from hpcsamp.bench.conformal import diabetes, drift
    from hpcsamp.calibration.quantile import check_level
    from hpcsamp.cli.output import show

    check_level(coverage)
    found = [*diabetes(coverage, seed), *drift(coverage, rate, seed=seed)]
    show(
        "coverage of conformal intervals",
        ["intervals", "stated", "observed", "standard error"],
        [
            [of.name, f"{of.stated:.4f}", f"{of.mean:.4f}", f"{of.error:.4f}" if of.error else None]
            for of in found
        ],
        json_file=json_file,
        data={"rows": [asdict(of) for of in found]},
    )
