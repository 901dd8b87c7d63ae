"""Survey a table in one pass: types, categories, missing values and suspicious columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from hpcsamp.errors import DataError, UsageError
from hpcsamp.ingest.encoding import Category, Date, Encoded, Number, Vector, as_words, missing
from hpcsamp.ingest.table import Table

CELLS = 2**20
"""Number of table cells that are read at a time."""

EXACT = 2**53
"""All whole numbers up to this one are exact in float64."""

MANY = 10_000
"""Largest number of categories of a column."""


@dataclass
class TableSurvey:
    """Types, categories and missing values found in one or more tables.

    Attributes
    ----------
    features
        Encoding of each column of ``x``; columns of lists of numbers become vectors.
    targets
        Columns of ``y``.
    kinds
        Type of every column over all rows.
    shapes
        Shape of an entry of each column.
    words
        Categories of each categorical column.
    lacking_x, lacking_y
        For each table, the rows in which a feature or a target is missing.
    first
        For each table, the column of the first missing value.
    gaps
        For each feature, the number of cells without a value: in all rows, and in those whose
        targets are known.
    suspicions
        Lines for the user.
    """

    features: list[Encoded]
    targets: Sequence[str]
    kinds: dict[str, np.dtype] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    words: dict[str, set[str]] = field(default_factory=dict)
    lacking_x: list[np.ndarray] = field(default_factory=list)
    lacking_y: list[np.ndarray] = field(default_factory=list)
    first: list[str] = field(default_factory=list)
    gaps: dict[str, tuple[int, int]] = field(default_factory=dict)
    suspicions: list[str] = field(default_factory=list)

    def look(self, table: Table) -> None:
        """Read all rows of a table once.

        Raises
        ------
        UsageError
            If a column needs an option for its encoding.
        DataError
            If a value cannot be used; the message names its row and column.
        """
        columns = [*(f.column for f in self.features), *self.targets]
        lacking_x = np.zeros(table.count, bool)
        lacking_y = np.zeros(table.count, bool)
        first = (table.count, "")
        counting = {f.column for f in self.features if type(f) is Number}
        equal = {(f.column, t) for f in self.features for t in self.targets[:1]}
        varies = False
        last: dict[str, float] = {}
        for rows in blocks(table.count, len(columns)):
            values = table.read(columns, rows)
            lacking = {}
            for at, feature in enumerate(self.features):
                found = values[feature.column]
                if table.pictures(feature.column):
                    continue
                self.features[at] = feature = self._typed(table, feature, found)
                self._note(table, feature.column, found, rows)
                gone = lacking[feature.column] = feature.missing(found)
                lacking_x[rows] |= gone
                first = min(first, _first(rows, gone, feature.column))
                feature.look(found[~gone])
                if isinstance(feature, Category):
                    self._categories(table, feature.column, found[~gone])
            for name in self.targets:
                if values[name].dtype.kind == "M":
                    raise UsageError(
                        f"{table.path}: column {name!r} has times; targets are numbers or classes"
                    )
                self._note(table, name, values[name], rows)
                gone = missing(values[name])
                lacking_y[rows] |= gone
                first = min(first, _first(rows, gone, name))
            for name, gone in lacking.items():
                every, known = self.gaps.get(name, (0, 0))
                own = gone & ~lacking_y[rows]
                self.gaps[name] = every + int(gone.sum()), known + int(own.sum())
            for name in list(counting):
                found = values[name]
                if (
                    found.dtype.kind not in "iuf"
                    or found.ndim > 1
                    or not np.all(np.diff(np.append(last.get(name, found[0] - 1), found)) == 1)
                ):
                    counting.discard(name)
                else:
                    last[name] = found[-1]
            for name, target in list(equal):
                if not _equal(values[name], values[target]):
                    equal.discard((name, target))
            varies = varies or _varies(values[self.targets[0]])
        if table.count >= 10:
            for name in sorted(counting):
                self.suspicions.append(
                    f"column {name!r} counts the rows; unless it is a measurement, choose the "
                    "other columns with --feature"
                )
        for name, target in sorted(equal):
            if varies:
                self.suspicions.append(f"column {name!r} is equal to the target {target!r}")
        self.lacking_x.append(lacking_x)
        self.lacking_y.append(lacking_y)
        self.first.append(first[1])

    def _typed(self, table: Table, feature: Encoded, values: np.ndarray) -> Encoded:
        """Check that a column can be encoded as requested; return the encoding."""
        column, kind = feature.column, values.dtype.kind
        if type(feature) is Number and values.ndim > 1:
            feature = Vector(column, int(np.prod(values.shape[1:])))
        if isinstance(feature, Number | Vector):
            if kind == "M":
                raise UsageError(
                    f"{table.path}: column {column!r} has times; give --date {column}=cyclical "
                    f"or {column}=seconds, or --drop {column}"
                )
            if kind not in "biuf":
                shown = next((v for v in values.tolist() if v is not None), None)
                raise UsageError(
                    f"{table.path}: column {column!r} has text ({str(shown)[:40]!r}); give "
                    f"--onehot {column}, --ids {column} or --drop {column}"
                )
        if isinstance(feature, Date) and kind != "M":
            raise UsageError(
                f"{table.path}: column {column!r} has dtype {values.dtype}, but --date needs dates "
                f"or times"
            )
        if feature.role == "text" and kind != "O":
            raise UsageError(
                f"{table.path}: column {column!r} has dtype {values.dtype}, but --text needs texts"
            )
        if isinstance(feature, Category) and (values.ndim > 1 or kind not in "biufO"):
            raise UsageError(
                f"{table.path}: column {column!r} has dtype {values.dtype}, but --onehot and --ids "
                f"need categories"
            )
        return feature

    def _note(self, table: Table, name: str, values: np.ndarray, rows: np.ndarray) -> None:
        """Record type and shape of a column; refuse infinity and inexact whole numbers."""
        if values.dtype.kind == "f" and np.isinf(values).any():
            at = int(np.flatnonzero(np.isinf(values).reshape(len(values), -1).any(1))[0])
            raise DataError(
                f"{table.path}: {table.row(int(rows[at]))}, column {name!r}: the value is infinite"
            )
        if values.dtype.kind in "iu" and values.dtype.itemsize == 8 and values.size:
            top = max(abs(int(values.min())), abs(int(values.max())))
            if top > EXACT:
                other = "" if name in self.targets else f", or give --ids {name} or --drop {name}"
                raise DataError(
                    f"{table.path}: column {name!r}: {top} is above 2**53, where whole numbers "
                    f"lose digits in float64; subtract an offset{other}"
                )
        shape = values.shape[1:]
        if self.shapes.setdefault(name, shape) != shape:
            raise DataError(
                f"{table.path}: {table.row(int(rows[0]))}, column {name!r}: lists have shape "
                f"{shape}, but others have {self.shapes[name]}"
            )
        known = self.kinds.get(name, values.dtype)
        if (known.kind in "biuf") != (values.dtype.kind in "biuf"):
            raise DataError(f"{table.path}: column {name!r} has both {values.dtype} and {known}")
        self.kinds[name] = np.result_type(known, values.dtype) if known.kind != "O" else known

    def _categories(self, table: Table, name: str, values: np.ndarray) -> None:
        if values.dtype.kind == "f" and (values != np.floor(values)).any():
            raise DataError(
                f"{table.path}: column {name!r} has {values[values != np.floor(values)][0]}, but "
                "categories must be words or whole numbers"
            )
        words = self.words.setdefault(name, set())
        words.update(np.unique(as_words(values)).tolist())
        if len(words) > MANY and values.dtype.kind == "O":
            raise DataError(
                f"{table.path}: column {name!r} has more than {MANY} different words, too many for "
                f"categories: give --drop {name}"
            )


def blocks(count: int, width: int) -> list[np.ndarray]:
    """Divide the row numbers of a table into blocks of about :data:`CELLS` cells."""
    step = max(1, CELLS // max(1, width))
    return [np.arange(i, min(i + step, count)) for i in range(0, count, step)]


def _first(rows: np.ndarray, gone: np.ndarray, name: str) -> tuple[int, str]:
    """Return the first row in which a column has no value, and the name of the column."""
    at = np.flatnonzero(gone)[:1]
    return (int(rows[at[0]]), name) if len(at) else (2**62, name)


def _equal(one: np.ndarray, other: np.ndarray) -> bool:
    return one.dtype.kind != "O" and one.shape == other.shape and np.array_equal(one, other)


def _varies(values: np.ndarray) -> bool:
    return values.dtype.kind != "O" and bool((values != values[:1]).any())
