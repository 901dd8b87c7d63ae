"""Times written as text."""

from __future__ import annotations

import datetime as dt

import numpy as np

from hpcsamp.errors import DataError

EPOCH = dt.datetime(1970, 1, 1)
FIRST, LAST = dt.datetime(1678, 1, 1), dt.datetime(2262, 1, 1)
"""Times that nanoseconds since 1970 in 64 bits can hold."""

MISSING_TIME = int(np.datetime64("NaT", "ns").astype(np.int64))


class Times:
    """Cells as nanoseconds since 1970-01-01; those with an offset or zone in UTC.

    Parameters
    ----------
    path
        The file, for messages.
    form
        As in ``strptime``; ``None`` for ISO 8601.
    """

    def __init__(self, path: object, form: str | None = None):
        self.path, self.form = path, form
        self._aware: dict[str, bool] = {}

    def read(self, cell: str, line: int, column: str) -> int:
        """One cell; NaT for an empty one.

        Raises
        ------
        DataError
            Naming line and column of a cell that is no time, or has a zone where others have none.
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
            told = f"is not written as {self.form!r}" if self.form else "is no time of ISO 8601"
            hint = "" if self.form else "; --date-format tells how times are written"
            raise DataError(f"{where}: {text[:40]!r} {told}{hint}") from None
        aware = time.tzinfo is not None
        if self._aware.setdefault(column, aware) != aware:
            raise DataError(f"{where}: {text!r} has {'a' if aware else 'no'} time zone, unlike "
                            "those before")  # fmt: skip
        if aware:
            time = time.astimezone(dt.UTC).replace(tzinfo=None)
        if not FIRST <= time < LAST:
            raise DataError(f"{where}: {text!r} is not between {FIRST.year} and {LAST.year}")
        return (time - EPOCH) // dt.timedelta(microseconds=1) * 1000
