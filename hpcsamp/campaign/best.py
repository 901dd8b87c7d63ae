"""Rank the finished points of a campaign by a metric."""

from __future__ import annotations

import math
from typing import Any, TypeGuard

from hpcsamp.campaign.collect import Results, Row
from hpcsamp.errors import UsageError
from hpcsamp.spelling import suggest

HIGHEST = (
    *("accuracy", "auroc", "auprc", "f1", "jaccard", "iou", "kappa", "precision", "r2", "recall"),
    "items_per_second",
)
"""Beginnings or ends of the names of metrics whose higher values are better."""


def best(
    results: Results, metric: str, highest: bool | None = None, count: int = 1
) -> tuple[str, list[Row]]:
    """Return the column of a metric, and the rows with its best values, the best first.

    Parameters
    ----------
    results
        Results of a campaign.
    metric
        A column, or the end of its name after a dot; of several columns, validation is preferred.
    highest
        Whether higher is better; None to decide by the name of the metric, see :data:`HIGHEST`.
    count
        Largest number of rows.

    Raises
    ------
    UsageError
        If no finished point has the metric as a finite number, or several columns end with it.
    """
    name = column(results, metric)
    rows = [row for row in results.rows if is_number(row.get(name))]
    if not rows:
        raise UsageError(f"no finished point has a numeric value of {name}")
    up = is_highest(name) if highest is None else highest
    rows.sort(key=lambda row: (-row[name] if up else row[name], row["point"]))
    return name, rows[:count]


def column(results: Results, metric: str) -> str:
    """Return the column that a metric refers to.

    Raises
    ------
    UsageError
        If there is no such column, or several that are not from validation.
    """
    if not results.rows:
        raise UsageError("no point is done yet")
    names = results.columns
    found = [n for n in names if n == metric] or [n for n in names if n.endswith(f".{metric}")]
    found = [n for n in found if n.startswith("valid.")] or found
    if len(found) == 1:
        return found[0]
    if found:
        raise UsageError(f"several columns are called {metric!r}: write one of {', '.join(found)}")
    raise UsageError(f"no finished point has {metric!r}{suggest(metric, names)}")


def is_highest(name: str) -> bool:
    """Whether a metric is better if higher, by its name."""
    short = name.rpartition(".")[2].rpartition("/")[2]
    return short.startswith(HIGHEST) or short.endswith(HIGHEST)


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a cell holds a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
