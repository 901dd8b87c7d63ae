"""Collect the results of a campaign in one table: csv, parquet or HDF5."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from hpcsamp.campaign import products
from hpcsamp.campaign.index import Index
from hpcsamp.campaign.mending import load
from hpcsamp.campaign.point import Point
from hpcsamp.campaign.points import Campaign
from hpcsamp.campaign.selection import Selection
from hpcsamp.campaign.spec import Reach
from hpcsamp.campaign.status import Survey
from hpcsamp.errors import DataError, UsageError
from hpcsamp.files import whole, write_whole
from hpcsamp.locks import locked
from hpcsamp.sealing import text

FIRST = (
    "steps",
    "world_size",
    "sample_group_size",
    "seconds_per_step",
    "peak_rss_mb",
    "parameters_sha256",
)
"""Keys of ``summary.json`` that are the first columns; all others follow the metrics."""

TEXTS = ("definitions", "units")
"""Tables of an evaluation that describe its metrics and hold no results."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Results:
    """Results of a campaign as a table.

    Attributes
    ----------
    rows
        One row per finished point: number, folder, axes, then the content of its result files.
    left_out
        Reasons why points have no row, keyed by the description of the point.
    """

    rows: list[Row]
    left_out: dict[str, str]

    @property
    def columns(self) -> list[str]:
        """Columns of all rows, in the order in which they first appear."""
        return list(dict.fromkeys(c for row in self.rows for c in row))


def collect(
    campaign: Campaign, ask_scheduler: bool = True, selection: Selection | None = None
) -> Results:
    """Read the result files of every finished point.

    Points whose files are the same as in the last call are taken from the :class:`.index.Index`.

    Parameters
    ----------
    campaign
        The campaign.
    ask_scheduler
        Whether to query the scheduler for unfinished points that are waiting or running; the
        collected results do not depend on it.
    selection
        Points to collect; None: all.

    Raises
    ------
    DataError
        If the campaign's state is damaged.
    SchedulerError
        If the scheduler does not answer.
    """
    survey = Survey(campaign, load(campaign, ask_scheduler), ask_scheduler)
    rows, left_out = [], {}
    points = selection.among(campaign, survey.points) if selection else survey.points
    unfinished = [s for s in points if s.word != "done"]
    broken = [s for s in unfinished if s.word != "missing"]
    reasons = survey.reasons(broken)
    index = _index(campaign)
    for status in points:
        point = status.point
        named = f"point {point.number}, {point.name} ({_values(point)})"
        if status.word != "done":
            why = reasons.get(point.name, "")
            left_out[named] = f"{status.word}{': ' if why else ''}{why}"
            continue
        try:
            read = partial(_row, campaign, point)
            rows.append(index.row(point.name, _first(point), read))
        except DataError as e:
            left_out[named] = str(e)
    index.save()
    return Results(rows, left_out)


def write(path: Path, results: Results) -> None:
    """Write a table atomically, in the format given by the suffix of the file name.

    Raises
    ------
    UsageError
        If the suffix is unknown, a library is missing, or the file cannot be written.
    """
    writers = {".csv": _csv, ".parquet": _parquet, ".h5": _hdf5, ".hdf5": _hdf5}
    if path.suffix not in writers:
        raise UsageError(f"--out {path}: the name must end in .csv, .parquet or .h5")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path.with_name(f".{path.name}.lock"), path), whole(path) as part:
            writers[path.suffix](part, results)
    except OSError as e:
        raise UsageError(f"cannot write {path}: {e.strerror or e}") from e


def _index(campaign: Campaign) -> Index:
    """Return the index of the rows, with the files that :func:`_row` reads."""
    reach = campaign.spec.collect.reach
    tables = [p for p in campaign.spec.files() if Path(p).suffix == ".json"]
    files = [*tables, "config.toml", "provenance.json", *["metrics.jsonl"] * bool(reach)]
    return Index(campaign.folder, files, repr(reach))


def _first(point: Point) -> Row:
    return {"point": point.number, "folder": point.name, **point.values}


def _row(campaign: Campaign, point: Point) -> Row:
    folder = campaign.folder / "points" / point.name
    run = products.owner(folder)
    row: Row = _first(point)
    others: Row = {}
    for product in campaign.spec.files():
        path = Path(product)
        if path.suffix != ".json":
            continue
        content = products.read(folder, product, run)
        if path.name == "summary.json":
            row |= {k: content.pop(k) for k in FIRST if k in content and k not in row}
        metrics = content.pop("metrics", None)
        prefix = "valid" if path.name == "summary.json" else path.stem
        if isinstance(metrics, dict):
            row |= {f"{prefix}.{k}": v for k, v in metrics.items()}
        elif metrics is not None:
            content["metrics"] = metrics
        own = product.startswith("evaluation/")
        content = {k: v for k, v in content.items() if not (own and k in TEXTS)}
        others |= {f"{path.stem}.{k}": v for k, v in _flat(content).items()}
    for reach in campaign.spec.collect.reach:
        row[_reach_name(reach)] = _first_epoch(folder, run, reach)
    row["commit"] = _commit(folder, run)
    return row | {k: v for k, v in others.items() if k not in row}


def _reach_name(reach: Reach) -> str:
    sign = "<=" if reach.below else ">="
    return f"epochs to {reach.event}.{reach.metric} {sign} {reach.value:g}"


def _first_epoch(folder: Path, run: str, reach: Reach) -> int | None:
    """Return the first epoch in which a metric reaches the value, from 1; None if it never does."""
    for event in text.read_lines(folder / "metrics.jsonl", run, unsealed=not run)[0]:
        value = event.get(reach.metric)
        if event.get("event") != reach.event or value is None:
            continue
        if value <= reach.value if reach.below else value >= reach.value:
            return int(event["epoch"]) + 1
    return None


def _commit(folder: Path, run: str) -> str | None:
    """Return the commit that a point ran with, followed by + if there were uncommitted changes."""
    if not (folder / "provenance.json").exists():
        return None
    starts = products.read(folder, "provenance.json", run).get("starts")
    try:
        git = starts[-1]["git"]  # type: ignore[index]
        return git["commit"][:12] + ("+" if git["diff_sha256"] else "") if git else None
    except (LookupError, TypeError):
        return None


def _flat(table: dict[str, Any]) -> dict[str, Any]:
    """Flatten nested tables to ``{"a.b": value}``."""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, dict):
            flat |= {f"{key}.{k}": v for k, v in _flat(value).items()}
        else:
            flat[str(key)] = value
    return flat


def _nested(value: Any) -> bool:
    return isinstance(value, dict | list)


def _values(point: Point) -> str:
    return ", ".join(f"{k}={v}" for k, v in point.values.items())


def _plain(value: Any) -> Any:
    """Convert lists and tables to text, because a cell holds a single value."""
    return json.dumps(value) if _nested(value) else value


def _csv(path: Path, results: Results) -> None:
    table = io.StringIO()
    writer = csv.DictWriter(table, results.columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: _plain(v) for k, v in row.items()} for row in results.rows)
    write_whole(path, table.getvalue())


def _parquet(path: Path, results: Results) -> None:
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError:
        raise UsageError(
            "parquet needs pyarrow: pip install 'hpcsamp[tables]', or choose .csv or .h5"
        ) from None
    table = pyarrow.table(
        {c: [_plain(row.get(c)) for row in results.rows] for c in results.columns}
    )
    parquet.write_table(table, path)


def _hdf5(path: Path, results: Results) -> None:
    """Write one dataset per column, all of one length; text as UTF-8, missing numbers as NaN."""
    import h5py

    with h5py.File(path, "w") as f:
        for column in results.columns:
            values = [_plain(row.get(column)) for row in results.rows]
            f.create_dataset(column.replace("/", "_"), data=_array(values))


def _array(values: list[Any]) -> Any:
    import h5py

    kinds = {type(v) for v in values if v is not None}
    if kinds and kinds <= {bool} and None not in values:
        return np.array(values, bool)
    if kinds and kinds <= {int, bool} and None not in values:
        return np.array(values, np.int64)
    if kinds <= {int, float, bool}:
        return np.array([np.nan if v is None else v for v in values], np.float64)
    return np.array(["" if v is None else str(v) for v in values], h5py.string_dtype())
