"""Forecast the values that follow the last row of a table, with a run of a series set."""

from __future__ import annotations

import csv
import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from hpcsamp.errors import DataError, UsageError
from hpcsamp.files import whole
from hpcsamp.ingest.series_axis import Axis, on_axis, show, span, zone_of
from hpcsamp.ingest.series_inputs import of_time
from hpcsamp.ingest.series_rows import Columns, Rows, read_rows
from hpcsamp.ingest.series_windows import inputs
from hpcsamp.ingest.tables import check_delimiter
from hpcsamp.prediction.csv_file import Form, columns_of
from hpcsamp.prediction.predicting import Predicting
from hpcsamp.run.trained import Trained


@dataclass(frozen=True)
class Last:
    """The last window of each series of a table.

    Attributes
    ----------
    x
        ``(series, *shape)`` windows in the units of the series.
    origin
        ``(series,)`` time of the last value in seconds since 1970-01-01 UTC.
    names
        Names of the series.
    """

    x: np.ndarray
    origin: np.ndarray
    names: list[str]


def recipe_of(trained: Trained) -> dict[str, Any] | None:
    """Return how ``hpcsamp ingest series`` made the training set; None for another set."""
    found = trained.manifest.source.get("series")
    return found if isinstance(found, dict) else None


def predict_series(
    posterior: Predicting,
    path: Path,
    out: Path,
    form: Form,
    *,
    quantiles: Sequence[float] | None = None,
    keep_samples: bool = False,
) -> dict[str, Any]:
    """Write the forecast after the last value of each series of a table, in the table's units.

    The file has a row for each series and lead time: time, series, lead in steps, mean, standard
    deviations, quantiles and interval.

    Parameters
    ----------
    posterior
        Posterior of a run of a series set.
    path
        Csv or parquet file with the columns of the set, and at least the past of a window. Rows
        after the last value give the columns that are known in advance.
    out
        Csv file to write, in the same notation.
    quantiles, keep_samples
        As for :meth:`~hpcsamp.prediction.predicting.Predicting.predict`.

    Returns
    -------
    dict
        Number of ``items`` (rows), the ``columns``, and the ``series`` with the time of their last
        value.

    Raises
    ------
    DataError
        If the table has too few values, gaps that the run was not trained on, another step, or an
        unknown series, or known columns end too early.
    UsageError
        If a column is missing, or the set was made by a version that did not keep what is needed.
    """
    recipe, plain = recipe_of(posterior.trained), True
    if recipe is not None:
        plain = len(posterior.trained.manifest.arrays["x"].shape) == 1
    if recipe is None or not (plain or "fill" in recipe):
        raise UsageError(
            "the training set of the run does not state how its windows were filled: ingest it "
            "again with this version, and train again"
        )
    columns = Columns(recipe["time"], recipe["target"], tuple(recipe["known"]), recipe["id"])
    zone = zone_of(recipe["timezone"])
    rows = read_rows([path], columns, zone, form.delimiter, form.notation, form.date_format)
    last = last_windows(path, rows, recipe, plain)
    several = last.names if len(recipe["names"]) > 1 else None
    found = posterior.predict(
        last.x, quantiles=quantiles, keep_samples=keep_samples, series=several
    )
    made = _in_rows(found)
    leads = np.arange(1, recipe["future"] + 1)
    times = (last.origin[:, None] + recipe["step"] * leads).ravel()
    labels = [name for name in last.names for _ in leads]
    cells = [[dt.datetime.fromtimestamp(int(t), zone or dt.UTC).isoformat() for t in times]]
    cells += [labels] if columns.ids else []
    cells += [[str(k) for k in np.tile(leads, len(last.names))]]
    point = form.notation.point
    cells += [[f"{float(v):.9g}".replace(".", point) for v in values] for values in made.values()]
    head = [columns.time, *columns.ids, "lead", *made]
    try:
        with whole(out) as part, part.open("w", newline="", encoding="utf-8") as f:
            sign = check_delimiter(form.delimiter)
            writer = csv.writer(f, delimiter=sign, lineterminator="\n")
            writer.writerow(head)
            writer.writerows(zip(*cells, strict=True))
    except OSError as e:
        raise UsageError(f"cannot write {out}: {e.strerror or e}") from e
    ends = {name: show(t) for name, t in zip(last.names, last.origin.tolist(), strict=True)}
    return {
        "items": len(times),
        "columns": head,
        "series": ends,
        "samples": found.attrs["samples"],
        "checkpoint": found.attrs["checkpoint"],
    }


def last_windows(path: Path, rows: Rows, recipe: dict[str, Any], plain: bool) -> Last:
    """Return the inputs of the last window of each series, whose future is not known.

    Parameters
    ----------
    path
        The table, for messages.
    recipe
        Entry ``series`` of the training set's source.
    plain
        Whether inputs are the past values alone.

    Raises
    ------
    DataError
        See :func:`predict_series`.
    """
    unknown = [name for name in rows.names if name not in recipe["names"]]
    if unknown:
        raise DataError(
            f"{path}: series {unknown[0]} is not one of the {len(recipe['names'])} series of the "
            f"training set: {', '.join(recipe['names'][:5])}"
        )
    axis = on_axis(rows.seconds, rows.of, rows.names, rows.places)
    past, future, step = recipe["past"], recipe["future"], recipe["step"]
    if axis.step != step:
        raise DataError(
            f"{path} has a row every {span(axis.step)}, but the run was trained on a series with "
            f"one every {span(step)}"
        )
    grid = np.full((len(rows.names), len(rows.numbers), axis.count + future), np.nan)
    grid[rows.of, :, axis.at] = rows.numbers.T
    x, origin = [], []
    for series, name in enumerate(rows.names):
        where = f"{path}: series {name}: " if name else f"{path}: "
        first, end = _ends(grid[series, 0], where)
        if end - first < past:
            raise DataError(
                f"{where}{end - first} values up to {show(axis.first + step * (end - 1))} UTC, but "
                f"the run needs the last {past}"
            )
        place = recipe["names"].index(name)
        values = grid[series, 0, end - past : end + future]
        holes = np.flatnonzero(np.isnan(values[:past]))
        if len(holes) and recipe["missing"] == "drop":
            at = axis.first + step * (end - past + int(holes[0]))
            raise DataError(
                f"{where}{len(holes)} of the last {past} values are missing, the first at "
                f"{show(at)} UTC, but the run was trained on windows without gaps (--missing mask "
                f"of hpcsamp ingest series)"
            )
        origin.append(axis.first + step * (end - 1))
        if plain:
            x.append(values[:past])
            continue
        known = grid[series, 1:, end - past : end + future]
        _check_known(where, known, recipe, axis, end - past)
        times = origin[-1] + step * np.arange(1 - past, future + 1)
        zone = zone_of(recipe["timezone"])
        of_times, _ = of_time(times, recipe["cycles"], recipe["holidays"], zone)
        more = np.concatenate([known, of_times])[None]
        mean, std = recipe["scales"][place]
        fill = np.asarray([recipe["fill"][place] * std + mean])
        x.append(inputs(values[None], more, fill, past)[0])
    return Last(np.stack(x), np.asarray(origin), rows.names)


def _ends(values: np.ndarray, where: str) -> tuple[int, int]:
    """Positions of the first value, and after the last one."""
    known = np.flatnonzero(np.isfinite(values))
    if not len(known):
        raise DataError(f"{where}there are no values to forecast from")
    return int(known[0]), int(known[-1]) + 1


def _check_known(
    where: str, known: np.ndarray, recipe: dict[str, Any], axis: Axis, begin: int
) -> None:
    """Check that the columns known in advance have values for the whole window."""
    for name, values in zip(recipe["known"], known, strict=True):
        missing = np.flatnonzero(np.isnan(values))
        if len(missing):
            at = axis.first + axis.step * (begin + int(missing[0]))
            raise DataError(
                f"{where}{name!r} has no value at {show(at)} UTC; it must be known for the last "
                f"{recipe['past']} values and the {recipe['future']} steps to forecast (rows "
                f"without a value of {recipe['target']!r})"
            )


def _in_rows(found: xr.Dataset) -> dict[str, np.ndarray]:
    """Return arrays with an axis of lead times as columns."""
    axis = str(found["mean"].dims[-1])
    made: dict[str, np.ndarray] = {}
    for name, array in found.data_vars.items():
        if array.dims[-1:] != (axis,) or array.ndim < 2:
            continue
        flat = array.stack(row=("item", axis)).transpose("row", ...).reset_index("row", drop=True)
        made |= columns_of(xr.Dataset({name: flat}))
    return made
