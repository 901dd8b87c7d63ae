"""Read electricity load from csv files: convert local times to UTC minutes and text to MW."""

from __future__ import annotations

import datetime as dt
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from hpcsamp.errors import DataError
from hpcsamp.ingest.numbers import Notation, NumberParser
from hpcsamp.ingest.tables import text_of

QUARTER = 15  # minutes
OPSD_TIME, OPSD_LOAD = "utc_timestamp", "DE_load_actual_entsoe_transparency"
EMPTY = {"", "-", "n/e", "N/A", "nan"}
ZONES = {"WET": 0, "CET": 1, "EET": 2}
"""Winter offset from UTC, in hours, of zones with European summer time."""
START = dt.datetime(1970, 1, 1)


@dataclass(frozen=True)
class Row:
    """A value with its time in minutes since 1970-01-01 UTC and its line; MW, NaN if missing."""

    minute: int
    load: float
    where: str


def read_rows(path: Path, notation: Notation | None = None) -> list[Row]:
    """Read all rows of a csv file, in file order, with increasing times.

    Raises
    ------
    DataError
        If a row cannot be read, or times do not increase in steps of 15 minutes; the message names
        file and line.
    """
    with text_of(path) as lines:
        header = [name.strip() for name in next(lines, [])]
        columns = _opsd if OPSD_TIME in header else _transparency
        time_at, load_at, minute = columns(path, header)
        cells = list(_cells(path, header, lines, (time_at, load_at)))
    numbers = NumberParser(path, [header[load_at]], notation or Notation(), EMPTY)
    loads = numbers.read([[load] for _, _, load in cells], [line for line, _, _ in cells])
    numbers.finish()
    rows: list[Row] = []
    for (line, text, _), load in zip(cells, loads[:, 0].tolist(), strict=True):
        where, last = f"{path}: line {line}", rows[-1].minute if rows else -1
        at = minute(text, last, where)
        if at is None:
            if math.isfinite(load):
                raise DataError(f"{where}: {text} does not exist: clocks skip that hour")
            continue
        if rows and at <= last:
            raise DataError(
                f"{where}: the time axis is broken: {show_minute(at)} follows {show_minute(last)}"
            )
        rows.append(Row(at, load, where))
    if not rows:
        raise DataError(f"{path} has no rows")
    steps = Counter(after.minute - before.minute for before, after in pairwise(rows))
    if steps and steps.most_common(1)[0][0] != QUARTER:
        raise DataError(
            f"{path} has a value every {steps.most_common(1)[0][0]} min, but one every {QUARTER} "
            "min is needed; the data are not interpolated"
        )
    return rows


def _cells(
    path: Path, header: Sequence[str], lines: Iterator[list[str]], at: tuple[int, int]
) -> Iterator[tuple[int, str, str]]:
    """Yield line, time and load of every row."""
    for number, cells in enumerate(lines, 2):
        if len(cells) <= max(at):
            raise DataError(
                f"{path}: line {number} has {len(cells)} cells, but the header has {len(header)}"
            )
        yield number, cells[at[0]], cells[at[1]]


Minute = Callable[[str, int, str], int | None]
"""Function that converts a cell to a minute, from the cell, the previous minute and the line.

It returns None for an hour that clocks skip.
"""


def _opsd(path: Path, header: Sequence[str]) -> tuple[int, int, Minute]:
    if OPSD_LOAD not in header:
        raise DataError(f"{path} has no column {OPSD_LOAD!r}")
    return header.index(OPSD_TIME), header.index(OPSD_LOAD), _utc


def _utc(text: str, last: int, where: str) -> int | None:
    try:
        time = dt.datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ")
    except ValueError:
        raise DataError(f"{where}: {text!r} is not a UTC time") from None
    return _minute(time, where)


def _transparency(path: Path, header: Sequence[str]) -> tuple[int, int, Minute]:
    """Return the columns of time and load, and the function that parses times."""
    times = [n for n, name in enumerate(header) if name.startswith(("Time (", "MTU ("))]
    loads = [n for n, name in enumerate(header) if name.startswith("Actual Total Load")]
    if not times or not loads:
        raise DataError(
            f"{path} has no columns 'Time (...)' and 'Actual Total Load ...', only "
            f"{', '.join(header[:20])[:300]}"
        )
    if len(loads) > 1:
        raise DataError(f"{path} has {len(loads)} columns 'Actual Total Load ...'; keep one")
    unit = re.search(r"\[(.*?)\]", header[loads[0]])
    if unit is not None and unit[1] != "MW":
        raise DataError(f"{path}: column {header[loads[0]]!r} is in {unit[1]}, but MW is needed")
    return times[0], loads[0], zone_parser(path, header[times[0]])


def zone_parser(path: Path, column: str) -> Minute:
    """Return the function that parses times of a column such as ``Time (CET/CEST)``."""
    zone = column.partition("(")[2].rstrip(") ")
    winter = zone.partition("/")[0].strip()
    hours = ZONES.get(winter)
    summer = f"{winter[:1]}EST"
    utc = zone == "UTC"
    if not utc and (hours is None or zone.replace(" ", "") not in (winter, f"{winter}/{summer}")):
        known = ", ".join(f"{name}/{name[0]}EST" for name in ZONES)
        raise DataError(f"{path}: column {column!r} has times of {zone}; UTC, {known} can be read")

    def minute(cell: str, last: int, where: str) -> int | None:
        """Parse a local time; return None in the hour that the change to summer time skips."""
        text = cell.split(" - ")[0]
        mark = re.search(r"\((.*?)\)", text)
        if mark is not None and mark[1] not in (("UTC",) if utc else (winter, summer)):
            raise DataError(f"{where}: {text!r} is not in {zone}, the time zone of the header")
        local = _local_time(text, where)
        if utc:
            return _minute(local, where)
        standard = _minute(local, where) - 60 * (hours or 0)
        if mark is not None:
            return standard - 60 if mark[1] == summer else standard
        choices = [m for m, s in ((standard - 60, True), (standard, False)) if is_summer(m) == s]
        # the first occurrence of the repeated hour is summer time
        return next((m for m in choices if m > last), choices[-1] if choices else None)

    return minute


def _local_time(text: str, where: str) -> dt.datetime:
    plain = re.sub(r"\s*\(.*?\)", "", text).strip()
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


def show_minute(minute: int) -> str:
    """Format a minute as date and time."""
    return (START + dt.timedelta(minutes=minute)).strftime("%Y-%m-%d %H:%M")
