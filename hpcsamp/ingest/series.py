"""Ingest time series: windows of the past and the values that follow, split by time."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np

from hpcsamp.data.manifest import ArraySpec
from hpcsamp.data.shard import sha256
from hpcsamp.data.shard_writer import Coordinate
from hpcsamp.errors import DataError, UsageError
from hpcsamp.ingest.arrow import ArrowTable
from hpcsamp.ingest.arrow_files import open_parquet
from hpcsamp.ingest.asked import Asked, Part
from hpcsamp.ingest.choice import check_named
from hpcsamp.ingest.encoding import Date
from hpcsamp.ingest.numbers import Notation
from hpcsamp.ingest.series_axis import (
    Axis,
    converter,
    indices,
    on_axis,
    seconds_of,
    zone_of,
)
from hpcsamp.ingest.source import Source, check_fractions, check_once
from hpcsamp.ingest.table import Role, Table
from hpcsamp.ingest.tables import CsvTable, check_delimiter

CYCLES = {"day": 86_400, "week": 7 * 86_400, "year": 365 * 86_400}
"""Names of the calendar cycles, with their lengths in seconds."""

Gaps = Literal["drop", "mask"]


@dataclass
class SeriesSource(Source):
    """Windows of one or more series.

    Attributes
    ----------
    values
        Target of each series on the common axis, ``(series, times)``; NaN where missing.
    covariates
        Inputs that are known in advance, ``(series or 1, covariates, times)``.
    windows
        Series and first position of each window, ``(windows, 2)`` by split.
    axis, past, future
        The axis, and the lengths of a window.
    fill
        Value, for each series, that replaces missing values and those not known yet.
    """

    values: np.ndarray = field(default_factory=lambda: np.empty((0, 0)))
    covariates: np.ndarray = field(default_factory=lambda: np.empty((1, 0, 0)))
    windows: dict[str, np.ndarray] = field(default_factory=dict)
    axis: Axis | None = None
    past: int = 0
    fill: np.ndarray = field(default_factory=lambda: np.empty(0))

    def read(self, split: str, start: int, stop: int) -> Mapping[str, np.ndarray]:
        """See :class:`~hpcsamp.ingest.source.Source`."""
        assert self.axis is not None
        of, begin = self.windows[split][start:stop].T
        length = self.past + self.arrays["y"].shape[0]
        at = begin[:, None] + np.arange(length)
        values = self.values[of[:, None], at]
        origin = self.axis.first + self.axis.step * (begin + self.past - 1)
        found = {
            "y": values[:, self.past :].astype(np.float32),
            "origin": origin.astype(np.float64) / 60,
            "series": of.astype(np.float64),
        }
        if len(self.arrays["x"].shape) == 1:
            return found | {"x": values[:, : self.past].astype(np.float32)}
        known = np.isfinite(values) & (np.arange(length) < self.past)
        rows = [np.where(known, values, self.fill[of][:, None]), known.astype(np.float64)]
        own = self.covariates[of if len(self.covariates) > 1 else np.zeros_like(of)]
        more = np.take_along_axis(own, at[:, None, :], axis=2)
        return found | {"x": np.concatenate([np.stack(rows, 1), more], 1).astype(np.float32)}


def series(
    files: Annotated[Sequence[str | Path], Asked("Csv or parquet files to read.", kind=list[Path])],
    time: Annotated[str, Asked("Column of times.", "--time")],
    target: Annotated[str, Asked("Column of the values to forecast.", "--target")],
    past: Annotated[int, Asked("Number of past values in a window.", "--past", least=1)] = 96,
    future: Annotated[int, Asked("Number of values to forecast.", "--future", least=1)] = 24,
    *,
    every: Annotated[int, Asked("Number of steps between the starts of two windows.", least=1)] = 1,
    id_column: Annotated[
        str | None, Asked("Column that names the series of a row.", "--id")
    ] = None,
    known: Annotated[
        Sequence[str], Asked("Numeric column whose values are known in advance.", "--known")
    ] = (),
    calendar: Annotated[
        str, Asked("Calendar cycles as inputs: auto, none, or some of day+week+year.")
    ] = "auto",
    holidays: Annotated[
        str | None, Asked("Country or COUNTRY-REGION whose holidays are an input, such as DE.")
    ] = None,
    timezone: Annotated[
        str | None,
        Asked("Time zone of the calendar, and of times without a zone, such as Europe/Berlin."),
    ] = None,
    missing: Annotated[
        Gaps, Asked("Windows with missing values: drop, or mask (keep them, with a mask).")
    ] = "drop",
    valid: Part = 0.1,
    test: Part = 0.1,
    delimiter: Annotated[str, Asked("Delimiter of cells: ',', ';', '\\t' ...")] = ",",
    notation: Notation | None = None,
    date_format: Annotated[
        str | None, Asked("Format of times, e.g. '%d.%m.%Y %H:%M'; by default ISO 8601.")
    ] = None,
) -> SeriesSource:
    """Read windows of time series from tables: past values, known covariates, and future values.

    The first part of the time axis is train, then come valid and test; no window crosses from one
    split to the next. Without a calendar, holidays, known columns and a mask, ``x`` has the past
    values, ``(past,)``. With any of them it has ``(rows, past + future)``: the target (of the
    future: its mean over train), whether it is known (0 or 1), and the covariates.

    If there are several series, each is standardised by the mean and standard deviation of its
    train part. A single series keeps its units.

    Parameters
    ----------
    files
        Tables with the same columns, in any order.
    time, target, id_column, known
        Columns.
    past, future, every
        Lengths of a window, and of the step between two windows, in steps of the series.
    calendar, holidays, timezone
        Inputs that are computed from the time. ``auto`` takes the cycles that are longer than a
        step and not longer than train. Times in parquet files are in UTC.
    missing
        What to do with windows that have missing values.
    valid, test
        Fractions of the time axis at its end.

    Raises
    ------
    UsageError
        If a column, zone, cycle or country does not exist.
    DataError
        If a time occurs twice or does not exist, the step is not constant, or no window is
        complete.

    Examples
    --------
    hpcsamp ingest series load.csv --time utc_timestamp --target load --out data/load

    hpcsamp ingest series a.csv --time time --target load --timezone Europe/Berlin --out data/load
    """
    paths = [Path(f) for f in files]
    check_once(paths)
    check_fractions({"valid": valid, "test": test})
    if len({time, target, *known, *([] if id_column is None else [id_column])}) < 2 + len(known) + (
        id_column is not None
    ):
        raise UsageError("--time, --target, --id and --known must name different columns")
    zone = zone_of(timezone)
    roles: dict[str, Role] = {target: "number", **dict.fromkeys(known, "number")}
    columns = [target, *known]
    seconds: list[np.ndarray] = []
    numbers: list[np.ndarray] = []
    words: list[str] = []
    places: list[str] = []
    for path in paths:
        parquet = path.suffix.lower() in (".parquet", ".pq")
        table: Table = (
            ArrowTable(path, [path], open_parquet)
            if parquet
            else CsvTable(path, check_delimiter(delimiter), notation, date_format, gaps=True)
        )
        ids = [] if id_column is None else [id_column]
        check_named(path, table.names, [time, *columns, *ids])
        table.prepare({**roles, time: "time" if parquet else "text", **dict.fromkeys(ids, "text")})
        found = table.read([time, *columns, *ids], np.arange(table.count))
        named = [""] * table.count if id_column is None else [str(w) for w in found[id_column]]
        values = np.stack([found[c].astype(np.float64) for c in columns])
        if parquet:
            own = found[time].astype("datetime64[s]").astype(np.int64)
        else:
            known_value = np.asarray(np.isfinite(values).any(0))
            convert = converter(table, time, date_format, zone)
            cells = found[time].tolist()
            own = seconds_of(table, cells, indices(named)[1], known_value, convert)
        kept = own != -1
        seconds.append(own[kept])
        numbers.append(values[:, kept])
        words += [w for w, k in zip(named, kept.tolist(), strict=True) if k]
        places += [f"{path}: {table.row(i)}" for i in np.flatnonzero(kept).tolist()]
    names, of = indices(words)
    axis = on_axis(np.concatenate(seconds), of, names, places)
    every_value = np.full((len(names), 1 + len(known), axis.count), np.nan)
    every_value[axis.of, :, axis.at] = np.concatenate(numbers, axis=1).T
    train_end = round((1 - valid - test) * axis.count)
    more, titles = _of_time(axis, calendar, holidays, zone, train_end)
    shared = np.broadcast_to(more, (len(names), *more.shape))
    covariates = np.concatenate([every_value[:, 1:], shared], axis=1) if known else more[None]
    report = list(axis.report)
    values, scales = _scaled(every_value[:, 0], names, train_end, report)
    parts = {"train": 1 - valid - test, "valid": 1 - test, "test": 1.0}
    ends = {split: round(part * axis.count) for split, part in parts.items()}
    windows, left = _windows(values, covariates, ends, past, future, every, missing)
    if "train" not in windows:
        raise DataError(
            f"{paths[0]}: {train_end} of {axis.count} times are train, and they contain no whole "
            f"window of {past} + {future} = {past + future} values"
        )
    if left:
        kept_count = sum(map(len, windows.values()))
        what = "have missing values" if missing == "drop" else "have no known past or future value"
        report.append(f"{left} of {left + kept_count} windows {what} and are left out")
    rows = [target, "known", *known, *titles]
    plain = missing == "drop" and not known and not titles
    recipe: dict[str, Any] = {
        "time": time, "target": target, "id": id_column, "known": list(known), "past": past,
        "future": future, "every": every, "step": axis.step, "calendar": calendar,
        "holidays": holidays, "timezone": timezone, "missing": missing, "valid": valid,
        "test": test, "names": names, "scales": scales,
    }  # fmt: skip
    hours = axis.step / 60 * np.arange(1, future + 1)
    many = len(names) > 1
    transforms = [*report, f"windows of {past} + {future}, one every {every} steps, split in time"]
    fill = np.asarray([0.0 if many else float(np.nanmean(v[:train_end])) for v in values])
    return SeriesSource(
        name=paths[0].stem,
        task="regression",
        normalize_y=True,
        missing="nan" if missing == "mask" else None,
        arrays={
            "x": ArraySpec.plan((past,) if plain else (len(rows), past + future), "<f4",
                                names=() if plain else rows),
            "y": ArraySpec.plan((future,), "<f4", description=target),
        },
        splits={split: len(found) for split, found in windows.items()},
        source={
            "file": ", ".join(p.name for p in paths),
            "sha256": ", ".join(sha256(p) for p in paths),
            "series": recipe,
        },
        transforms=transforms,
        coords={
            "origin": Coordinate(np.empty(0), "minutes since 1970-01-01"),
            "series": Coordinate(np.empty(0)),
            "horizon": Coordinate(hours, "min", 0, ("y",)),
        },
        report=report,
        values=values,
        covariates=covariates,
        windows=windows,
        axis=axis,
        past=past,
        fill=fill,
    )  # fmt: skip


def _of_time(
    axis: Axis, calendar: str, holidays: str | None, zone: dt.tzinfo | None, train: int
) -> tuple[np.ndarray, list[str]]:
    """Return inputs computed from the time alone, ``(inputs, times)``, and their names."""
    seconds = axis.times()
    if zone is not None:
        shifts = [dt.datetime.fromtimestamp(int(s), zone).utcoffset() for s in seconds]
        seconds = seconds + np.asarray([int(s.total_seconds()) if s else 0 for s in shifts])
    if calendar == "auto":
        cycles = [c for c, n in CYCLES.items() if axis.step < n <= train * axis.step]
    else:
        cycles = [] if calendar == "none" else calendar.split("+")
    for cycle in cycles:
        if cycle not in CYCLES:
            raise UsageError(f"--calendar {calendar}: {cycle!r} is not one of {', '.join(CYCLES)}")
    found: list[np.ndarray] = []
    titles: list[str] = []
    if cycles:
        date = Date("time", tuple(cycles))
        found += list(date.encode(seconds.astype("datetime64[s]").astype("M8[ns]"), "").T)
        titles += date.names
    if holidays is not None:
        found.append(_holidays(seconds, holidays))
        titles.append(f"holiday in {holidays}")
    return (np.stack(found) if found else np.empty((0, axis.count))), titles


def _holidays(seconds: np.ndarray, place: str) -> np.ndarray:
    """Return whether each local time is on a public holiday, using the package ``holidays``."""
    try:
        import holidays
    except ImportError:
        raise UsageError(
            "--holidays needs the package holidays: pip install hpcsamp[series]"
        ) from None
    country, _, region = place.partition("-")
    days = seconds.astype("datetime64[s]").astype("datetime64[D]")
    each, back = np.unique(days, return_inverse=True)
    try:
        free = holidays.country_holidays(country, subdiv=region or None)
    except NotImplementedError as e:
        raise UsageError(f"--holidays {place}: {e}") from None
    return np.asarray([float(day in free) for day in each.tolist()])[back]


def _scaled(
    values: np.ndarray, names: list[str], train: int, report: list[str]
) -> tuple[np.ndarray, list[list[float]]]:
    """Scale each of several series by its train part; return values, and mean and scale of each."""
    scales = []
    for name, own in zip(names, values, strict=True):
        part = own[:train][np.isfinite(own[:train])]
        if not len(part):
            raise DataError(f"series {name}: none of its {len(own)} times in train has a value")
        std = float(part.std())
        scales.append([float(part.mean()), std or 1.0] if len(names) > 1 else [0.0, 1.0])
    if len(names) > 1:
        report.append(f"{len(names)} series, each standardised by the statistics of its train part")
        values = (values - np.asarray(scales)[:, :1]) / np.asarray(scales)[:, 1:]
    return values, scales


def _windows(
    values: np.ndarray,
    covariates: np.ndarray,
    ends: Mapping[str, int],
    past: int,
    future: int,
    every: int,
    missing: Gaps,
) -> tuple[dict[str, np.ndarray], int]:
    """Return the windows of each split that can be used, and the number of those that cannot."""
    length, low, left = past + future, 0, 0
    found: dict[str, np.ndarray] = {}
    for split, high in ends.items():
        begin = np.arange(low, max(low, high - length + 1), every)
        kept = []
        for series, own in enumerate(values):
            known = _counts(np.isfinite(own))
            several = covariates[series if len(covariates) > 1 else 0]
            whole = _counts(np.isfinite(several).all(0))
            back, ahead = (
                known[begin + past] - known[begin],
                known[begin + length] - known[begin + past],
            )
            good = whole[begin + length] - whole[begin] == length
            if missing == "drop":
                good &= back + ahead == length
            else:
                good &= (back > 0) & (ahead > 0)
            of = np.full(int(good.sum()), series)
            kept.append(np.stack([of, begin[good]], axis=1))
            left += int((~good).sum())
        if any(map(len, kept)):
            found[split] = np.concatenate(kept)
        low = high
    return found, left


def _counts(flags: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(flags)])
