"""Parse times written as text."""

from __future__ import annotations

import datetime as dt

import numpy as np

from hpcsamp.errors import DataError

EPOCH = dt.datetime(1970, 1, 1)
FIRST, LAST = dt.datetime(1678, 1, 1), dt.datetime(2262, 1, 1)
"""Range of times that 64-bit nanoseconds since 1970 can represent."""

MISSING_TIME = int(np.datetime64("NaT", "ns").astype(np.int64))


class Times:
    """Parser of text cells to nanoseconds since 1970-01-01; times with a zone are converted to UTC.

    Parameters
    ----------
    path
        The file, for messages.
    form
        Format of the times as in ``strptime``; ``None`` for ISO 8601.
    """

    def __init__(self, path: object, form: str | None = None):
        self.path, self.form = path, form
        self._aware: dict[str, bool] = {}

    def aware(self, column: str) -> bool:
        """Whether the times of a column that were read have a time zone."""
        return self._aware.get(column, False)

    def read(self, cell: str, line: int, column: str) -> int:
        """Parse one cell; an empty cell is NaT.

        Raises
        ------
        DataError
            If a cell is not a time, or some cells of a column have a time zone and others do not;
            the message names the line and column.
        """
        text = cell.strip()
        if not text:
            return MISSING_TIME
        where = f"{self.path}: line {line}, column {column!r}"
        try:
            if self.form is not None:
                time = dt.datetime.strptime(text, self.form)
            else:
                time = dt.datetime.fromisoformat(text)
        except ValueError:
            fault = f"does not match {self.form!r}" if self.form else "is not an ISO 8601 time"
            hint = "" if self.form else "; give the format of the times as --date-format"
            raise DataError(f"{where}: {text[:40]!r} {fault}{hint}") from None
        aware = time.tzinfo is not None
        if self._aware.setdefault(column, aware) != aware:
            raise DataError(f"{where}: {text!r} has {'a' if aware else 'no'} time zone, unlike "
                            "earlier times of the column")  # fmt: skip
        if aware:
            time = time.astimezone(dt.UTC).replace(tzinfo=None)
        if not FIRST <= time < LAST:
            raise DataError(f"{where}: {text!r} is not between {FIRST.year} and {LAST.year}")
        return (time - EPOCH) // dt.timedelta(microseconds=1) * 1000
