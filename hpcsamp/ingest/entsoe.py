"""Electricity load of Germany at 15 minutes: 24 hours in, the next 6 out (paper, section 5.3).

Reads csv of the ENTSO-E transparency platform ("Total Load", one file per year) and of Open Power
System Data (``time_series_15min_singleindex.csv``). Everything is put on a gapless UTC axis first.
"""

from __future__ import annotations

import csv
import datetime as dt
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np

from hpcsamp.data.manifest import ArraySpec
from hpcsamp.data.shard import sha256
from hpcsamp.data.shard_writer import Coordinate
from hpcsamp.errors import DataError
from hpcsamp.ingest.source import Source

INPUTS, TARGETS = 96, 24
QUARTER = 15  # minutes
FILL = 4
"""Longest gap, in values, that is interpolated; windows never touch longer ones."""

OPSD_TIME, OPSD_LOAD = "utc_timestamp", "DE_load_actual_entsoe_transparency"
EMPTY = {"", "-", "n/e", "N/A", "nan"}
START = dt.datetime(1970, 1, 1)


@dataclass
class Series:
    """Load on a gapless axis.

    Attributes
    ----------
    start
        First time, minutes since 1970-01-01 UTC.
    load
        MW, one value per quarter of an hour; NaN inside gaps longer than :data:`FILL`.
    report
        What was found and done.
    """

    start: int
    load: np.ndarray
    report: list[str] = field(default_factory=list)


@dataclass
class Windows(Source):
    """Windows of a series that touch no gap.

    Attributes
    ----------
    series
        The load.
    begin
        By split: where each window begins in the series.
    """

    series: Series | None = None
    begin: dict[str, np.ndarray] = field(default_factory=dict)

    def read(self, split: str, start: int, stop: int) -> Mapping[str, np.ndarray]:
        """See :class:`Source`."""
        assert self.series is not None
        at = self.begin[split][start:stop]
        values = self.series.load[at[:, None] + np.arange(INPUTS + TARGETS)].astype(np.float32)
        time = (self.series.start + at * QUARTER).astype(np.float64)
        return {"x": values[:, :INPUTS], "y": values[:, INPUTS:], "time": time}


def entsoe(files: Sequence[str | Path], *, valid: float = 0.1, test: float = 0.1) -> Windows:
    """Windows of 96 values in and 24 out, one beginning at every quarter of an hour.

    Parameters
    ----------
    files
        Csv files, in any order.
    valid, test
        Last parts of the time axis; no window crosses from one part to the next.

    Raises
    ------
    DataError
        Naming file and line, if a number or a time is not one, or the time axis is broken.
    """
    paths = [Path(f) for f in files]
    series = on_axis(sorted((row for p in paths for row in read_rows(p)), key=lambda r: r.minute))
    good = np.isfinite(series.load)
    length = INPUTS + TARGETS
    ends = {"train": 1 - valid - test, "valid": 1 - test, "test": 1.0}
    begin: dict[str, np.ndarray] = {}
    low, kept, lost = 0, 0, 0
    bad = np.concatenate([[0], np.cumsum(~good)])
    for split, part in ends.items():
        high = round(part * len(good))
        starts = np.arange(low, max(low, high - length + 1))
        whole = bad[starts + length] == bad[starts]
        kept, lost = kept + int(whole.sum()), lost + int((~whole).sum())
        if whole.any():
            begin[split] = starts[whole]
        low = high
    if "train" not in begin:
        raise DataError(f"{paths[0]}: {len(good)} values leave no window of {length} for train")
    if lost:
        series.report.append(f"{lost} of {kept + lost} windows touch a long gap and are left out")
    return Windows(
        name="entsoe",
        task="regression",
        normalize_y=True,
        arrays={
            "x": ArraySpec.plan((INPUTS,), "<f4", units="MW", description="load, last 24 hours"),
            "y": ArraySpec.plan((TARGETS,), "<f4", units="MW", description="load, next 6 hours"),
        },
        splits={split: len(rows) for split, rows in begin.items()},
        source={
            "name": "ENTSO-E actual total load, Germany",
            "file": ", ".join(p.name for p in paths),
            "sha256": ", ".join(sha256(p) for p in paths),
        },
        licence="ENTSO-E transparency platform terms; Open Power System Data: CC BY 4.0",
        transforms=[*series.report, f"windows of {INPUTS} + {TARGETS}, split in time"],
        coords={"time": Coordinate(np.empty(0), "minutes since 1970-01-01"), **horizons()},
        report=list(series.report),
        series=series,
        begin=begin,
    )


def horizons() -> dict[str, Coordinate]:
    """How far ahead each value of a target lies, in minutes after the last value of the input."""
    return {"horizon": Coordinate(15.0 * np.arange(1, TARGETS + 1), "min", 0, ("y",))}


@dataclass(frozen=True)
class Row:
    """One value: its time in minutes since 1970-01-01 UTC, MW (NaN if missing), and its line."""

    minute: int
    load: float
    where: str


def read_rows(path: Path) -> list[Row]:
    """All rows of a csv file, in file order, with increasing times.

    Raises
    ------
    DataError
        Naming file and line.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as f:
            lines = csv.reader(f)
            header = [name.strip() for name in next(lines, [])]
            if OPSD_TIME in header:
                rows = list(_opsd(path, header, lines))
            else:
                rows = list(_transparency(path, header, lines))
    except OSError as e:
        raise DataError(f"{path}: cannot be read: {e.strerror}") from None
    except UnicodeDecodeError as e:
        raise DataError(f"{path}: not a table of text: {e}") from None
    for before, after in pairwise(rows):
        if after.minute <= before.minute:
            raise DataError(
                f"{after.where}: the time axis is broken: {_show(after.minute)} follows "
                f"{_show(before.minute)}"
            )
    if not rows:
        raise DataError(f"{path}: has no rows")
    return rows


def _opsd(path: Path, header: Sequence[str], lines: Iterator[list[str]]) -> Iterator[Row]:
    if OPSD_LOAD not in header:
        raise DataError(f"{path}: has no column {OPSD_LOAD!r}")
    time_at, load_at = header.index(OPSD_TIME), header.index(OPSD_LOAD)
    for number, cells in enumerate(lines, 2):
        where = f"{path}: line {number}"
        if len(cells) <= max(time_at, load_at):
            raise DataError(f"{where}: has {len(cells)} cells, the header has {len(header)}")
        try:
            time = dt.datetime.strptime(cells[time_at], "%Y-%m-%dT%H:%M:%SZ")
        except ValueError:
            raise DataError(f"{where}: {cells[time_at]!r} is not a UTC time") from None
        yield Row(_minute(time, where), _load(cells[load_at], where, OPSD_LOAD), where)


def _transparency(path: Path, header: Sequence[str], lines: Iterator[list[str]]) -> Iterator[Row]:
    """Local times: the hour that summer time skips is dropped, the one it repeats comes twice."""
    times = [n for n, name in enumerate(header) if name.startswith(("Time (", "MTU ("))]
    loads = [n for n, name in enumerate(header) if name.startswith("Actual Total Load")]
    if not times or not loads:
        raise DataError(
            f"{path}: has no columns 'Time (...)' and 'Actual Total Load ...', only {list(header)}"
        )
    last = -1
    for number, cells in enumerate(lines, 2):
        where = f"{path}: line {number}"
        if len(cells) <= max(times[0], loads[0]):
            raise DataError(f"{where}: has {len(cells)} cells, the header has {len(header)}")
        text = cells[times[0]].split(" - ")[0]
        local = _local_time(text, where)
        load = _load(cells[loads[0]], where, header[loads[0]])
        summer = _minute(local - dt.timedelta(hours=2), where)
        winter = _minute(local - dt.timedelta(hours=1), where)
        if "UTC" in header[times[0]]:
            choices = [_minute(local, where)]
        elif "(CEST)" in text or "(CET)" in text:
            choices = [summer if "(CEST)" in text else winter]
        else:
            choices = [m for m, s in ((summer, True), (winter, False)) if is_summer(m) == s]
        if not choices:
            if math.isfinite(load):
                raise DataError(f"{where}: {text} does not exist: clocks skip that hour")
            continue
        # of the hour that comes twice, the first is summer time
        last = next((m for m in choices if m > last), choices[-1])
        yield Row(last, load, where)


def _local_time(text: str, where: str) -> dt.datetime:
    plain = re.sub(r"\s*\(CES?T\)", "", text).strip()
    for form in ("%d.%m.%Y %H:%M", "%d/%m/%Y %H:%M:%S", "%d/%m/%Y %H:%M"):
        try:
            return dt.datetime.strptime(plain, form)
        except ValueError:
            continue
    raise DataError(f"{where}: {text!r} is not a time such as 31.12.2019 23:45")


def is_summer(minute: int) -> bool:
    """Whether a UTC minute is in European summer time (since 1996: last Sundays, 01:00 UTC)."""
    time = START + dt.timedelta(minutes=minute)

    def last_sunday(month: int) -> dt.datetime:
        end = dt.datetime(time.year, month, 31, 1)
        return end - dt.timedelta(days=(end.weekday() + 1) % 7)

    return last_sunday(3) <= time < last_sunday(10)


def _minute(time: dt.datetime, where: str) -> int:
    minute = (time - START) // dt.timedelta(minutes=1)
    if minute % QUARTER or time.second:
        raise DataError(f"{where}: {time} is not at a quarter of an hour")
    return minute


def _load(cell: str, where: str, column: str) -> float:
    text = cell.strip()
    if text in EMPTY:
        return math.nan
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{where}, column {column!r}: {text!r} is not a number")
    return value


def on_axis(rows: Sequence[Row]) -> Series:
    """Rows in time order on a gapless axis; short gaps are interpolated, all are reported.

    Raises
    ------
    DataError
        If a time comes twice.
    """
    first, last = rows[0].minute, rows[-1].minute
    load = np.full((last - first) // QUARTER + 1, np.nan)
    seen = np.zeros(len(load), bool)
    for row in rows:
        at = (row.minute - first) // QUARTER
        if seen[at]:
            raise DataError(
                f"{row.where}: the time axis is broken: {_show(row.minute)} comes twice"
            )
        seen[at], load[at] = True, row.load
    report = [f"{len(rows)} rows from {_show(first)} to {_show(last)} UTC"]
    missing = ~np.isfinite(load)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], missing.astype(np.int8), [0]])))
    filled, long = 0, 0
    for begin, end in edges.reshape(-1, 2).tolist():
        if end - begin <= FILL and begin > 0 and end < len(load):
            load[begin:end] = np.interp(
                np.arange(begin, end), [begin - 1, end], [load[begin - 1], load[end]]
            )
            filled += 1
        else:
            long += 1
            report.append(
                f"gap of {(end - begin) / 4:g} h from {_show(first + begin * QUARTER)} UTC"
            )
    if filled:
        report.append(f"{filled} gaps of at most {FILL / 4:g} h were interpolated")
    return Series(first, load, report)


def _show(minute: int) -> str:
    return (START + dt.timedelta(minutes=minute)).strftime("%Y-%m-%d %H:%M")
