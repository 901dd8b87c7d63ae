"""Place the rows of one or more time series on a common axis with a constant step, in UTC."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from zoneinfo import ZoneInfo

import numpy as np

from hpcsamp.errors import DataError, UsageError
from hpcsamp.ingest.load_rows import zone_parser
from hpcsamp.ingest.table import Table
from hpcsamp.ingest.times import Times

SECOND = 10**9
"""Nanoseconds."""


@dataclass
class Axis:
    """Times of all series.

    Attributes
    ----------
    first, step, count
        First time in seconds since 1970-01-01 UTC, seconds between two times, number of times.
    at
        Position of each row on the axis.
    of
        Index of the series of each row.
    names
        Names of the series.
    report
        Lines for the user, e.g. about missing times.
    """

    first: int
    step: int
    count: int
    at: np.ndarray
    of: np.ndarray
    names: list[str]
    report: list[str] = field(default_factory=list)

    def times(self) -> np.ndarray:
        """All times in seconds since 1970-01-01 UTC, shape ``(count,)``."""
        return self.first + self.step * np.arange(self.count)


def zone_of(name: str | None) -> ZoneInfo | None:
    """Return a time zone by its IANA name.

    Raises
    ------
    UsageError
        If there is no such zone.
    """
    try:
        return None if name is None else ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise UsageError(
            f"--timezone {name}: no such time zone; give a name such as Europe/Berlin or UTC"
        ) from None


Converter = Callable[[str, str, int], int | None]
"""Function that converts a cell to seconds, given the cell, its position and the previous time."""


def converter(table: Table, column: str, form: str | None, zone: ZoneInfo | None) -> Converter:
    """Return the function that converts the times of a text column to seconds in UTC.

    It returns None for a local time that does not exist, because clocks skip it.
    """
    if column.startswith(("Time (", "MTU (")):
        minute = zone_parser(table.path, column)

        def in_zone_of_header(cell: str, where: str, last: int) -> int | None:
            found = minute(cell, last // 60, where)
            return None if found is None else 60 * found

        return in_zone_of_header
    parser = Times(table.path, form)

    def parsed(cell: str, where: str, last: int) -> int | None:
        number = int(where.rpartition(" ")[2])
        found = parser.read(cell, number, column) // SECOND
        if zone is None or parser.aware(column):
            return found
        local = dt.datetime(1970, 1, 1) + dt.timedelta(seconds=found)
        summer, winter = (int(local.replace(tzinfo=zone, fold=fold).timestamp()) for fold in (0, 1))
        back = dt.datetime.fromtimestamp(summer, zone).replace(tzinfo=None)
        if back != local:
            return None
        return summer if summer > last else winter

    return parsed


def seconds_of(
    table: Table, cells: Sequence[str | None], of: np.ndarray, known: np.ndarray, convert: Converter
) -> np.ndarray:
    """Convert the times of all rows; a skipped hour without a value becomes -1.

    Raises
    ------
    DataError
        If a time is missing, cannot be parsed, or does not exist although it has a value.
    """
    last: dict[int, int] = {}
    found = np.empty(len(cells), np.int64)
    for row, (cell, series) in enumerate(zip(cells, of.tolist(), strict=True)):
        where = f"{table.path}: {table.row(row)}"
        if cell is None:
            raise DataError(f"{where}: the time is missing")
        time = convert(cell, where, last.get(series, -(2**62)))
        if time is None and known[row]:
            raise DataError(f"{where}: {cell} does not exist: clocks skip that hour")
        found[row] = -1 if time is None else time
        if time is not None:
            last[series] = time
    return found


def on_axis(seconds: np.ndarray, of: np.ndarray, names: list[str], place: Sequence[str]) -> Axis:
    """Find the step of the series and the position of each row.

    Parameters
    ----------
    seconds, of
        Time and series of each row.
    names
        Names of the series.
    place
        File and row of each time, for messages.

    Raises
    ------
    DataError
        If a time occurs twice, or rows do not follow each other at multiples of one step; the
        message contains both times or both steps.
    """
    report: list[str] = []
    steps: dict[str, int] = {}
    for series, name in enumerate(names):
        rows = np.flatnonzero(of == series)
        order = rows[np.argsort(seconds[rows], kind="stable")]
        if (order != rows).any():
            report.append(f"{_named(name)}rows were not in order of time and have been sorted")
        gaps = np.diff(seconds[order])
        if not len(gaps):
            raise DataError(f"{place[order[0]]}: {_named(name)}a series needs at least two rows")
        for k in np.flatnonzero(gaps == 0)[:1].tolist():
            raise DataError(
                f"{place[order[k + 1]]}: {_named(name)}{show(seconds[order[k]])} UTC occurs twice "
                f"(before: {place[order[k]].rpartition(': ')[2]}); if times are local, give "
                f"--timezone; for several series, --id"
            )
        sizes, counts = np.unique(gaps, return_counts=True)
        step = int(sizes[counts.argmax()])
        for k in np.flatnonzero(gaps % step)[:1].tolist():
            raise DataError(
                f"{place[order[k + 1]]}: {_named(name)}{show(seconds[order[k + 1]])} UTC is "
                f"{span(int(gaps[k]))} after the row before it, but the step of the series is "
                f"{span(step)}; the data are not interpolated"
            )
        steps[name] = step
        holes = np.flatnonzero(gaps > step)
        if len(holes):
            lost = int((gaps[holes] // step - 1).sum())
            report.append(
                f"{_named(name)}{lost} times are missing in {len(holes)} gaps, the first after "
                f"{show(seconds[order[holes[0]]])} UTC"
            )
    step = next(iter(steps.values()))
    first = int(seconds.min())
    for name, own in steps.items():
        rows = np.flatnonzero(of == names.index(name))
        if own != step or (seconds[rows[0]] - first) % step:
            raise DataError(
                f"{place[rows[0]]}: {_named(name)}a value every {span(own)} from "
                f"{show(seconds[rows[0]])} UTC, but other series have one every {span(step)} from "
                f"{show(first)} UTC"
            )
    at = (seconds - first) // step
    ends = f"{show(first)} to {show(int(seconds.max()))} UTC"
    report.insert(0, f"{len(seconds)} rows from {ends}, one every {span(step)}")
    return Axis(first, step, int(at.max()) + 1, at, of, names, report)


def show(seconds: int | np.integer) -> str:
    """Format a time as ``2020-01-31 23:45``; seconds are added if they are not 0."""
    text = str(dt.datetime(1970, 1, 1) + dt.timedelta(seconds=int(seconds)))
    return text.removesuffix(":00")


def span(seconds: int) -> str:
    """Format a duration in the largest unit of which it is a multiple."""
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds % size == 0:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def indices(words: Iterable[str]) -> tuple[list[str], np.ndarray]:
    """Return the distinct words in order of first appearance, and the index of each."""
    known: dict[str, int] = {}
    of = np.asarray([known.setdefault(word, len(known)) for word in words], np.int64)
    return list(known), of


def _named(name: str) -> str:
    return f"series {name}: " if name else ""
