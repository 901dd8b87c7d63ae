"""Columns of a table as numbers: dates, categories, missing values, vectors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from hpcsamp.errors import DataError, UsageError
from hpcsamp.ingest.table import Role

DAY = 86_400.0
"""Seconds."""

PERIODS = {"day": DAY, "week": 7 * DAY}
"""Cycles of a fixed length, in seconds; a year has the length of its own days."""

HOW = ("seconds", "day", "week", "year", "cyclical")
"""What ``--date COLUMN=HOW`` makes of times; several are joined by ``+``."""


@dataclass
class Encoded(ABC):
    """One column and the numbers that it becomes.

    Attributes
    ----------
    column
        Its name in the table.
    """

    column: str
    role: ClassVar[Role] = "number"

    @property
    @abstractmethod
    def names(self) -> list[str]:
        """Of the numbers."""

    @abstractmethod
    def kind(self, found: np.dtype) -> np.dtype:
        """The type of the numbers, of a column of type ``found``."""

    @abstractmethod
    def encode(self, values: np.ndarray, where: str) -> np.ndarray:
        """Numbers of shape ``(n, len(names))``.

        Raises
        ------
        DataError
            Beginning with ``where``, for a value that has none.
        """

    def missing(self, values: np.ndarray) -> np.ndarray:
        """Which entries have no value, shape ``(n,)``."""
        return missing(values)

    def look(self, values: np.ndarray) -> None:  # noqa: B027
        """Called with all entries that are not missing, in blocks, before any is encoded."""

    def units(self, told: str) -> dict[str, str]:
        """Units by name of the numbers, of a column in units ``told``."""
        return dict.fromkeys(self.names, told) if told else {}

    @abstractmethod
    def describe(self) -> str | dict[str, Any]:
        """What a later set needs in order to be encoded alike."""


@dataclass
class Number(Encoded):
    """A column of numbers as it is.

    Attributes
    ----------
    fill
        Stands in for missing values.
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
    """A column of equally long lists of numbers.

    Attributes
    ----------
    width
        Length of each.
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
    """A column of times as seconds or as parts of cycles.

    Attributes
    ----------
    how
        Of :data:`HOW`, without ``cyclical``.
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

    def units(self, told: str) -> dict[str, str]:
        """See :class:`Encoded`."""
        return {self.column: "seconds since 1970-01-01"} if "seconds" in self.how else {}

    def describe(self) -> str | dict[str, Any]:
        """See :class:`Encoded`."""
        return {"column": self.column, "date": "+".join(self.how)}


@dataclass
class Category(Encoded):
    """A column of words: one number of 0 and 1 for each (one-hot), or the number of the word.

    Attributes
    ----------
    words
        All that occur, sorted; whole numbers as text. Of ids that are whole numbers already:
        ``None``.
    ids
        Whether words are numbered.
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
                known = ", ".join(self.words[:20]) + ", ..." * (len(self.words) > 20)
                raise DataError(
                    f"{where}, column {self.column!r}: {word!r} is not one of the categories that "
                    f"are known: {known}"
                )
        codes[~lacking] = np.asarray([place[w] for w in found.tolist()], np.int64)[inverse]
        if self.ids:
            return codes[:, None]
        return (codes[:, None] == np.arange(len(self.words))).astype(np.uint8)

    def units(self, told: str) -> dict[str, str]:
        """See :class:`Encoded`."""
        return {}

    def describe(self) -> str | dict[str, Any]:
        """See :class:`Encoded`."""
        return {"column": self.column, ("ids" if self.ids else "onehot"): self.words}


def encoded_of(told: str | dict[str, Any]) -> Encoded:
    """What :meth:`Encoded.describe` described."""
    if isinstance(told, str):
        return Number(told)
    column = told["column"]
    if "tokens" in told:
        raise UsageError(
            f"--like: column {column!r} holds texts; give --text, --tokenizer and --tokens "
            f"{told['tokens']} instead"
        )
    if "date" in told:
        return Date(column, tuple(told["date"].split("+")))
    if "onehot" in told:
        return Category(column, told["onehot"])
    if "ids" in told:
        return Category(column, told["ids"], ids=True)
    if "width" in told:
        return Vector(column, told["width"])
    return Number(column, told.get("fill"))


def missing(values: np.ndarray) -> np.ndarray:
    """Which entries have no value: NaN, NaT, ``None``; shape ``(n,)``."""
    if values.dtype.kind == "f":
        return np.isnan(values.reshape(len(values), -1)).any(1)
    if values.dtype.kind == "M":
        return np.isnat(values)
    if values.dtype.kind == "O":
        return np.asarray([v is None for v in values.tolist()], bool)
    return np.zeros(len(values), bool)


def as_words(values: np.ndarray) -> np.ndarray:
    """Words of a column; of whole numbers their digits."""
    if values.dtype.kind == "f" and (values == np.floor(values)).all():
        values = values.astype(np.int64)
    return values.astype(str)


def read_dates(given: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """``COLUMN=HOW`` by column.

    Raises
    ------
    UsageError
        If it is not told what becomes of a column.
    """
    found = {}
    for text in given:
        column, sign, how = text.rpartition("=")
        if not sign:
            raise UsageError(
                f"--date {text}: what becomes of it? Give --date {text}=cyclical (sine and cosine "
                f"of day, week and year), or {text}=seconds, or parts such as {text}=day+year"
            )
        parts: list[str] = []
        for part in how.split("+"):
            if part not in HOW:
                raise UsageError(f"--date {text}: {part!r} is none of {', '.join(HOW)}")
            parts += ["day", "week", "year"] if part == "cyclical" else [part]
        found[column] = tuple(dict.fromkeys(parts))
    return found


def read_units(given: Sequence[str]) -> dict[str, str]:
    """``COLUMN=UNIT`` by column.

    Raises
    ------
    UsageError
        If it is not written so.
    """
    found = {}
    for text in given:
        column, sign, unit = text.rpartition("=")
        if not sign or not unit or any(c in unit for c in "[]"):
            raise UsageError(f"--unit {text}: written COLUMN=UNIT, such as load=MW")
        found[column] = unit
    return found
