"""Read the rows of time series from tables: time in UTC, series, target and known columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np

from hpcsamp.errors import UsageError
from hpcsamp.ingest.arrow import ArrowTable
from hpcsamp.ingest.arrow_files import open_parquet
from hpcsamp.ingest.choice import check_named
from hpcsamp.ingest.numbers import Notation
from hpcsamp.ingest.series_axis import converter, indices, seconds_of
from hpcsamp.ingest.table import Role, Table
from hpcsamp.ingest.tables import CsvTable, check_delimiter


@dataclass(frozen=True)
class Columns:
    """Names of the columns of a series: time, target, those known in advance, and series.

    Raises
    ------
    UsageError
        If two of them are the same.
    """

    time: str
    target: str
    known: tuple[str, ...] = ()
    series: str | None = None

    def __post_init__(self) -> None:
        names = [self.time, *self.numbers, *self.ids]
        if len(set(names)) < len(names):
            raise UsageError("--time, --target, --id and --known must name different columns")

    @property
    def numbers(self) -> list[str]:
        """Target, and the columns known in advance."""
        return [self.target, *self.known]

    @property
    def ids(self) -> list[str]:
        """The column that names the series, if there is one."""
        return [] if self.series is None else [self.series]


@dataclass(frozen=True)
class Rows:
    """Rows of all tables.

    Attributes
    ----------
    seconds
        ``(rows,)`` times in seconds since 1970-01-01 UTC.
    numbers
        ``(1 + known, rows)`` target and known columns; NaN where missing.
    of
        ``(rows,)`` index of the series.
    names
        Names of the series; ``[""]`` for a single one without a name.
    places
        File and row, for messages.
    facts
        Notation of the tables, as kept in a manifest.
    """

    seconds: np.ndarray
    numbers: np.ndarray
    of: np.ndarray
    names: list[str]
    places: list[str]
    facts: dict[str, Any]


def read_rows(
    paths: Sequence[Path],
    columns: Columns,
    zone: ZoneInfo | None,
    delimiter: str = ",",
    notation: Notation | None = None,
    date_format: str | None = None,
) -> Rows:
    """Read csv and parquet files with the same columns, in any order.

    Parameters
    ----------
    zone
        Zone of times without a zone; None for UTC.
    delimiter, notation, date_format
        See :class:`~hpcsamp.ingest.tables.CsvTable`.

    Raises
    ------
    UsageError
        If a column does not exist.
    DataError
        If a cell cannot be read, or a time does not exist; the message names file and row.
    """
    seconds: list[np.ndarray] = []
    numbers: list[np.ndarray] = []
    words: list[str] = []
    places: list[str] = []
    facts: dict[str, Any] = {}
    for path in paths:
        table: Table
        if path.suffix.lower() in (".parquet", ".pq"):
            table = ArrowTable(path, [path], open_parquet)
        else:
            sign = check_delimiter(delimiter)
            table = CsvTable(path, sign, notation, date_format, gaps=True)
            facts |= table.facts()
        check_named(path, table.names, [columns.time, *columns.numbers, *columns.ids])
        roles: dict[str, Role] = dict.fromkeys(columns.numbers, "number")
        table.prepare({**roles, **dict.fromkeys([columns.time, *columns.ids], "text")})
        found = table.read([columns.time, *columns.numbers, *columns.ids], np.arange(table.count))
        named = [str(w) for w in found[columns.series]] if columns.series else [""] * table.count
        values = np.stack([found[c].astype(np.float64) for c in columns.numbers])
        form, cells = date_format, found[columns.time]
        if cells.dtype.kind == "M":
            assert isinstance(table, ArrowTable)
            form, cells = None, _as_text(cells, table.aware(columns.time))
        known = np.asarray(np.isfinite(values).any(0))
        convert = converter(table, columns.time, form, zone)
        own = seconds_of(table, cells.tolist(), indices(named)[1], known, convert)
        kept = own != -1
        seconds.append(own[kept])
        numbers.append(values[:, kept])
        words += [w for w, k in zip(named, kept.tolist(), strict=True) if k]
        places += [f"{path}: {table.row(i)}" for i in np.flatnonzero(kept).tolist()]
    names, of = indices(words)
    return Rows(np.concatenate(seconds), np.concatenate(numbers, axis=1), of, names, places, facts)


def _as_text(times: np.ndarray, aware: bool) -> np.ndarray:
    """Write times as ISO 8601 cells, so that the rules of a csv file hold; missing: None."""
    text = np.datetime_as_string(
        times.astype("datetime64[s]"), timezone="UTC" if aware else "naive"
    ).astype(object)
    text[np.isnat(times)] = None
    return text
