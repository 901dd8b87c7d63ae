"""Encode columns of a table as numbers: dates, categories, missing values, vectors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from hpcsamp.errors import DataError, UsageError
from hpcsamp.ingest.table import Role
from hpcsamp.spelling import joined

DAY = 86_400.0
"""Length of a day in seconds."""

PERIODS = {"day": DAY, "week": 7 * DAY}
"""Cycles of fixed length, in seconds; the length of a year depends on its number of days."""

HOW = ("seconds", "day", "week", "year", "cyclical")
"""Encodings of times for ``--date COLUMN=HOW``; several are joined by ``+``."""


@dataclass
class Encoded(ABC):
    """Base class of encodings, which convert one column of a table to numbers.

    Attributes
    ----------
    column
        Name of the column in the table.
    """

    column: str
    role: ClassVar[Role] = "number"

    @property
    @abstractmethod
    def names(self) -> list[str]:
        """Names of the encoded values, one for each column of the result."""

    @abstractmethod
    def kind(self, found: np.dtype) -> np.dtype:
        """Return the dtype of the encoded values for a column of dtype ``found``."""

    @abstractmethod
    def encode(self, values: np.ndarray, where: str) -> np.ndarray:
        """Encode the values of a column as an array of shape ``(n, len(names))``.

        Raises
        ------
        DataError
            If a value cannot be encoded; the message begins with ``where``.
        """

    def missing(self, values: np.ndarray) -> np.ndarray:
        """Return which entries have no value, shape ``(n,)``."""
        return missing(values)

    def look(self, values: np.ndarray) -> None:  # noqa: B027
        """Examine values; called with all known entries, in blocks, before any is encoded."""

    def units(self, unit: str) -> dict[str, str]:
        """Return the units of the encoded values by name, for a column in units ``unit``."""
        return dict.fromkeys(self.names, unit) if unit else {}

    @abstractmethod
    def describe(self) -> str | dict[str, Any]:
        """Describe the encoding, so that a later dataset can be encoded in the same way."""


@dataclass
class Number(Encoded):
    """A column of numbers, unchanged.

    Attributes
    ----------
    fill
        Replacement of missing values.
    """

    fill: float | None = None

    @property
    def names(self) -> list[str]:
        """See :class:`Encoded`."""
        return [self.column]

    def kind(self, found: np.dtype) -> np.dtype:
        """See :class:`Encoded`."""
        return found

    def encode(self, values: np.ndarray, where: str) -> np.ndarray:
        """See :class:`Encoded`."""
        if self.fill is not None and values.dtype.kind == "f":
            values = np.where(np.isnan(values), self.fill, values)
        return values[:, None]

    def describe(self) -> str | dict[str, Any]:
        """See :class:`Encoded`."""
        return self.column if self.fill is None else {"column": self.column, "fill": self.fill}


@dataclass
class Vector(Encoded):
    """A column of lists of numbers, all of the same length.

    Attributes
    ----------
    width
        Length of the lists.
    """

    width: int = 1

    @property
    def names(self) -> list[str]:
        """See :class:`Encoded`."""
        return [f"{self.column}[{i}]" for i in range(self.width)]

    def kind(self, found: np.dtype) -> np.dtype:
        """See :class:`Encoded`."""
        return found

    def encode(self, values: np.ndarray, where: str) -> np.ndarray:
        """See :class:`Encoded`."""
        return values.reshape(len(values), -1)

    def describe(self) -> str | dict[str, Any]:
        """See :class:`Encoded`."""
        return {"column": self.column, "width": self.width}


@dataclass
class Date(Encoded):
    """A column of times, encoded as seconds or as phases of cycles.

    Attributes
    ----------
    how
        Encodings: some of :data:`HOW`, except ``cyclical``.
    """

    how: tuple[str, ...] = ("seconds",)
    role: ClassVar[Role] = "time"

    @property
    def names(self) -> list[str]:
        """See :class:`Encoded`."""
        found = []
        for part in self.how:
            both = [f"{self.column}: sin of {part}", f"{self.column}: cos of {part}"]
            found += [self.column] if part == "seconds" else both
        return found

    def kind(self, found: np.dtype) -> np.dtype:
        """See :class:`Encoded`."""
        return np.dtype("f8")

    def encode(self, values: np.ndarray, where: str) -> np.ndarray:
        """See :class:`Encoded`."""
        if np.isnat(values).any():
            raise DataError(f"{where}, column {self.column!r}: a time is missing")
        found: list[np.ndarray] = []
        seconds = values.astype("datetime64[ns]").astype(np.int64) / 1e9
        for part in self.how:
            if part == "seconds":
                found.append(seconds)
                continue
            if part == "year":
                begin = values.astype("datetime64[Y]")
                length = (begin + 1).astype("datetime64[D]") - begin.astype("datetime64[D]")
                passed = (values - begin.astype(values.dtype)).astype("timedelta64[ns]")
                turn = passed.astype(np.int64) / 1e9 / (length.astype(np.int64) * DAY)
            else:  # 1970-01-01 was a Thursday; weeks begin on Mondays
                shift = 3 * DAY if part == "week" else 0.0
                turn = np.mod(seconds + shift, PERIODS[part]) / PERIODS[part]
            found += [np.sin(2 * np.pi * turn), np.cos(2 * np.pi * turn)]
        return np.stack(found, axis=1)

    def units(self, unit: str) -> dict[str, str]:
        """See :class:`Encoded`."""
        return {self.column: "seconds since 1970-01-01"} if "seconds" in self.how else {}

    def describe(self) -> str | dict[str, Any]:
        """See :class:`Encoded`."""
        return {"column": self.column, "date": "+".join(self.how)}


@dataclass
class Category(Encoded):
    """A column of categories, encoded one-hot or as ids.

    Attributes
    ----------
    words
        All words that occur, sorted; whole numbers as text. ``None`` for ids that are already whole
        numbers.
    ids
        Whether categories become ids; otherwise they are encoded one-hot.
    """

    words: list[str] | None = None
    ids: bool = False
    role: ClassVar[Role] = "any"

    @property
    def names(self) -> list[str]:
        """See :class:`Encoded`."""
        return [self.column] if self.ids else [f"{self.column}={w}" for w in self.words or []]

    def kind(self, found: np.dtype) -> np.dtype:
        """See :class:`Encoded`."""
        return np.dtype("i8") if self.ids else np.dtype("u1")

    def encode(self, values: np.ndarray, where: str) -> np.ndarray:
        """See :class:`Encoded`."""
        lacking = self.missing(values)
        if self.ids and lacking.any():
            raise DataError(f"{where}, column {self.column!r}: a category is missing")
        if self.words is None:
            return values.astype(np.int64)[:, None]
        place = {word: i for i, word in enumerate(self.words)}
        codes = np.full(len(values), -1, np.int64)
        found, inverse = np.unique(as_words(values[~lacking]), return_inverse=True)
        for word in found.tolist():
            if word not in place:
                known = joined(self.words[:20]) + ", ..." * (len(self.words) > 20)
                raise DataError(
                    f"{where}, column {self.column!r}: {word!r} is not one of the categories "
                    f"{known}"
                )
        codes[~lacking] = np.asarray([place[w] for w in found.tolist()], np.int64)[inverse]
        if self.ids:
            return codes[:, None]
        return (codes[:, None] == np.arange(len(self.words))).astype(np.uint8)

    def units(self, unit: str) -> dict[str, str]:
        """See :class:`Encoded`."""
        return {}

    def describe(self) -> str | dict[str, Any]:
        """See :class:`Encoded`."""
        return {"column": self.column, ("ids" if self.ids else "onehot"): self.words}


def encoded_of(described: str | dict[str, Any]) -> Encoded:
    """Restore an encoding from the result of :meth:`Encoded.describe`."""
    if isinstance(described, str):
        return Number(described)
    column = described["column"]
    if "tokens" in described:
        raise UsageError(
            f"--like: column {column!r} has texts; give --text, --tokenizer and --tokens "
            f"{described['tokens']} instead"
        )
    if "date" in described:
        return Date(column, tuple(described["date"].split("+")))
    if "onehot" in described:
        return Category(column, described["onehot"])
    if "ids" in described:
        return Category(column, described["ids"], ids=True)
    if "width" in described:
        return Vector(column, described["width"])
    return Number(column, described.get("fill"))


def missing(values: np.ndarray) -> np.ndarray:
    """Return which entries have no value (NaN, NaT, ``None``), shape ``(n,)``."""
    if values.dtype.kind == "f":
        return np.isnan(values.reshape(len(values), -1)).any(1)
    if values.dtype.kind == "M":
        return np.isnat(values)
    if values.dtype.kind == "O":
        return np.asarray([v is None for v in values.tolist()], bool)
    return np.zeros(len(values), bool)


def as_words(values: np.ndarray) -> np.ndarray:
    """Convert a column to words; whole numbers become their digits."""
    if values.dtype.kind == "f" and (values == np.floor(values)).all():
        values = values.astype(np.int64)
    return values.astype(str)


def read_dates(given: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Parse ``COLUMN=HOW``: how the times in each column are encoded.

    Raises
    ------
    UsageError
        If an encoding is missing or unknown.
    """
    found = {}
    for text in given:
        column, sign, how = text.rpartition("=")
        if not sign:
            raise UsageError(
                f"--date {text} has no encoding; give --date {text}=cyclical (sine and cosine of "
                f"day, week and year), or {text}=seconds, or parts such as {text}=day+year"
            )
        parts: list[str] = []
        for part in how.split("+"):
            if part not in HOW:
                raise UsageError(f"--date {text}: {part!r} is not one of {', '.join(HOW)}")
            parts += ["day", "week", "year"] if part == "cyclical" else [part]
        found[column] = tuple(dict.fromkeys(parts))
    return found


def read_units(given: Sequence[str]) -> dict[str, str]:
    """Parse ``COLUMN=UNIT``, the units by column.

    Raises
    ------
    UsageError
        If an entry has the wrong form.
    """
    found = {}
    for text in given:
        column, sign, unit = text.rpartition("=")
        if not sign or not unit or any(c in unit for c in "[]"):
            raise UsageError(f"--unit {text} must be COLUMN=UNIT, such as load=MW")
        found[column] = unit
    return found
