"""``hpcsamp predict --rollout``: options and implementation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

Rollout = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Forecast this many steps ahead: the network is applied to its own outputs, and the "
        "states of all members are written to a .zarr store or .h5 file.",
    ),
]
Members = Annotated[
    int | None,
    typer.Option(
        min=1, help="Members of a rollout, one weight sample each (default: as --samples)."
    ),
]
Items = Annotated[
    int | None,
    typer.Option(min=1, help="Items that a rollout starts from, from the first (default: all)."),
]
Perturb = Annotated[
    float | None,
    typer.Option(
        min=0,
        help="Normal noise that each member of a rollout but the first adds to its initial state, "
        "in standard deviations (default: 0).",
    ),
]

Scores = Annotated[
    bool,
    typer.Option(
        "--scores",
        help="Also score a rollout against the split, by lead time and variable; all scores are "
        "kept in the folder of the run, and go to the file of --json.",
    ),
]


def check_rollout(
    rollout: int | None, own: Mapping[str, Any], others: Mapping[str, Any], table: Path | None
) -> None:
    """Refuse rollout options without --rollout, and options that a rollout does not use."""
    from hpcsamp.errors import UsageError

    if rollout is None:
        for option, value in own.items():
            if value is not None:
                raise UsageError(f"{option} is for forecasts: add --rollout STEPS")
        return
    if table is not None:
        raise UsageError(f"--rollout needs a dataset of fields (--data DIR), not the table {table}")
    for option, value in others.items():
        if value:
            raise UsageError(f"{option} has no effect on --rollout, which writes all members")


def score_lines(scores: Mapping[str, Any], variables: int = 4) -> list[str]:
    """Format RMSE, bias, CRPS and spread-skill ratio of the first variables at some lead times."""
    of, leads = scores["regions"]["global"], scores["lead_time"]
    shown = sorted({0, len(leads) // 2, len(leads) - 1})
    names = ("rmse", "rmse_persistence", "rmse_climatology", "crps_fair", "spread_skill")
    lines = []
    for v, variable in enumerate(scores["variables"][:variables]):
        for k in shown:
            values = ", ".join(f"{name} {of[name][k][v]:.4g}" for name in names)
            lines.append(f"{variable}, {leads[k]:g} {scores['lead_unit']}: {values}")
    return lines
