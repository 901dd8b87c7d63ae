"""Parse numbers in text by a strict grammar; the meaning of points is decided by the whole column.

Python's ``float`` also accepts ``1_000``, ``nan`` and digits of any script. In a table such cells
are probably not numbers, or mean something else, so they are refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from hpcsamp.errors import DataError, UsageError
from hpcsamp.ingest.asked import Asked

_CHARACTERS = frozenset("0123456789+-.eE")
_EXACT_DIGITS = 15
_DOUBTFUL = re.compile(r"[+-]?[1-9]\d{0,2}\.\d{3}", re.ASCII)
_GROUPED = re.compile(r"[+-]?\d{1,3}([ '.,\u00a0\u2009\u202f’]\d{3})+([.,]\d+)?", re.ASCII)
_TIME = re.compile(r"\d[-./]\d{1,2}[-./]\d|\d:\d\d", re.ASCII)
_MISSING = frozenset({"", "-", "na", "n/a", "n/e", "nan", "null", "none", "?", "."})


@dataclass(frozen=True)
class Notation:
    """Notation of numbers in a text file: decimal and thousands separators.

    Attributes
    ----------
    decimal
        Decimal separator, ``"."`` or ``","``. ``None`` stands for a point, and a column in which
        points may also separate thousands is refused.
    thousands
        Separator of groups of three digits; ``""`` for none.

    Raises
    ------
    UsageError
        If both are the same, or one is not a valid separator.
    """

    decimal: Annotated[str | None, Asked("Decimal separator, '.' or ','; by default '.'.")] = None
    thousands: Annotated[str, Asked("Thousands separator, e.g. '.'.")] = ""

    def __post_init__(self) -> None:
        if self.decimal not in (None, ".", ","):
            raise UsageError(f"--decimal {self.decimal!r} must be '.' or ','")
        if len(self.thousands) > 1 or (self.thousands and self.thousands in "0123456789+-eE"):
            raise UsageError(
                f"--thousands {self.thousands!r} must be one character, such as '.' or ','"
            )
        if self.thousands and self.thousands == self.point:
            raise UsageError(f"--decimal and --thousands are both {self.point!r}, but must differ")

    @property
    def point(self) -> str:
        """The decimal separator."""
        return self.decimal or ("," if self.thousands == "." else ".")

    def plain(self, cell: str) -> str:
        """Convert a cell to Python's notation; ``""`` if it does not follow this notation."""
        if self.thousands and self.thousands in cell:
            group, point = re.escape(self.thousands), re.escape(self.point)
            if not re.fullmatch(rf"[+-]?\d{{1,3}}({group}\d{{3}})+({point}\d*)?", cell, re.ASCII):
                return ""
            cell = cell.replace(self.thousands, "")
        if self.point == ",":
            return "" if "." in cell else cell.replace(",", ".")
        return cell


class NumberParser:
    """Parser of rows of cells to rows of numbers, block by block.

    Parameters
    ----------
    path
        The file, for messages.
    names
        Names of the columns.
    notation
        Notation of the numbers.
    missing
        Cells that mark a missing value, which becomes NaN.
    targets
        Those of the columns that are targets, for messages.
    """

    def __init__(
        self,
        path: object,
        names: Sequence[str],
        notation: Notation,
        missing: Collection[str] = (),
        targets: Collection[str] = (),
    ):
        self.path, self.names, self.notation, self.missing = path, names, notation, set(missing)
        self._open = notation.decimal is None and not notation.thousands
        self._doubts: dict[int, tuple[str, int]] = {}
        self._clear: set[int] = set()
        self._points = False  # whether a cell of the file has a point that must be a decimal point
        self._targets = frozenset(targets)

    def read(self, rows: Sequence[Sequence[str]], lines: Sequence[int]) -> np.ndarray:
        """Parse a block of rows to float64 of shape ``(rows, columns)``.

        Parameters
        ----------
        rows
            Cells of each row, one per column.
        lines
            Line number of each row in the file.

        Raises
        ------
        DataError
            If a cell is not a number; the message names the line and column of the first one.
        """
        width = len(self.names)
        cells = [cell.strip(" \t") for row in rows for cell in row]
        texts = ["0" if c in self.missing else c for c in cells] if self.missing else cells
        if not self._open:
            texts = [self.notation.plain(text) for text in texts]
        values = np.asarray(_numbers(texts), np.float64)

        def fault(at: int, what: str) -> DataError:
            line, column = divmod(at, width)
            return DataError(
                f"{self.path}: line {lines[line]}, column {self.names[column]!r}: "
                f"{_short(cells[at])!r} {what}"
            )

        for at in np.flatnonzero(~np.isfinite(values)).tolist():
            column = self.names[at % width]
            advice = _hint_on_target if column in self._targets else _hint
            raise fault(at, "is not a finite number" + advice(cells[at], column))
        for at in np.flatnonzero(values == 0).tolist():
            if texts[at].lower().partition("e")[0].strip("+-0."):
                raise fault(at, "is too small for a float64")
        for at in [i for i, text in enumerate(texts) if len(text) > _EXACT_DIGITS]:
            if texts[at].lstrip("+-").isdigit() and int(texts[at]) != int(values[at]):
                raise fault(at, "loses digits as a float64")
        if self._open:
            self._look(texts, lines)
        if self.missing:
            values[[i for i, cell in enumerate(cells) if cell in self.missing]] = math.nan
        return values.reshape(len(rows), width)

    def finish(self) -> None:
        """Check the separators; called once after the last block.

        Raises
        ------
        DataError
            If points may be decimal points or thousands separators, and no cell decides which.
        """
        if self._points:
            return
        for column, (cell, line) in sorted(self._doubts.items()):
            if column not in self._clear:
                raise DataError(
                    f"{self.path}: line {line}, column {self.names[column]!r}: {cell!r} may be "
                    f"{float(cell):g} or {cell.replace('.', '')}, and no cell of the file "
                    "decides which; give --decimal . or --thousands ."
                )

    def _look(self, texts: Sequence[str], lines: Sequence[int]) -> None:
        """Record the columns in which points are decimal points, and those that are ambiguous.

        A point that cannot separate thousands, as in 9.5, makes all points of the file decimal
        points. A number of four or more digits without a separator does so only for its own column,
        because years are never written with a separator.
        """
        width = len(self.names)
        for at, text in enumerate(texts):
            if (point := "." in text) or len(text) > 3:
                line, column = divmod(at, width)
                if column in self._clear:
                    continue
                if point and _DOUBTFUL.fullmatch(text):
                    self._doubts.setdefault(column, (text, lines[line]))
                elif point or len(text.lstrip("+-")) > 3:
                    self._clear.add(column)
                    self._points |= point


def numbers_or_words(cells: Sequence[str]) -> np.ndarray:
    """Convert a column to int64 or float64 if all cells are numbers, else to words (objects).

    Cells also stay words if different cells would become the same number: digits beyond those of
    the type, or ``01`` beside ``1``.
    """
    words = np.asarray(cells, object)
    if not all(cell.isascii() and "_" not in cell for cell in cells):
        return words
    for kind, held in ((int, np.int64), (float, np.float64)):
        try:
            numbers = [kind(cell) for cell in cells]
            values = np.asarray(numbers, held)
        except ValueError:
            continue
        except OverflowError:
            return words
        if not np.isfinite(values).all() or _merges(cells, values.tolist()):
            return words
        return values
    return words


def _merges(cells: Sequence[str], values: Sequence[float]) -> bool:
    """Whether digits are lost, or codes with leading zeros become the number of another code."""
    bare = {cell: cell.strip().lstrip("+-") for cell in set(cells)}
    if isinstance(next(iter(values), None), float):
        for cell, value in zip(cells, values, strict=True):
            if bare[cell].isdigit() and int(bare[cell]) != abs(int(value)):
                return True
    codes = any(len(text) > 1 and text[0] == "0" and text[1].isdigit() for text in bare.values())
    return codes and len(set(values)) < len(bare)


def _numbers(texts: Sequence[str]) -> list[float]:
    """Convert texts to numbers, NaN for texts that are not numbers."""
    if _CHARACTERS.issuperset("".join(texts)):
        try:
            return [float(text) for text in texts]
        except ValueError:
            pass
    return [_number(text) for text in texts]


def _number(text: str) -> float:
    try:
        return float(text) if _CHARACTERS.issuperset(text) else math.nan
    except ValueError:
        return math.nan


def _hint(cell: str, column: str) -> str:
    """Return advice on reading a cell of a feature that is not a number."""
    known = _hint_on_number(cell)
    if known:
        return known
    if _TIME.search(cell):
        return f"; --date '{column}=cyclical' (with --date-format) reads a column of times"
    if any(c.isalpha() for c in cell):
        return (
            f"; --onehot '{column}' or --ids '{column}' reads a column of categories, "
            f"--drop '{column}' leaves it out"
        )
    return ""


def _hint_on_target(cell: str, column: str) -> str:
    """Advise how a cell of a target that is not a number can be read."""
    known = _hint_on_number(cell)
    if known:
        return known
    return f"; if {column!r} holds classes, give --task classification"


def _hint_on_number(cell: str) -> str:
    """Advise on a missing value or on separators; "" for any other cell."""
    if cell.lower() in _MISSING:
        return "; fill in missing values, leave the row out, or see --missing"
    if _GROUPED.fullmatch(cell) or re.fullmatch(r"[+-]?\d+,\d*", cell, re.ASCII):
        return "; give the separators of numbers as --decimal and --thousands"
    return ""


def _short(cell: str) -> str:
    return cell if len(cell) <= 40 else cell[:37] + "..."
