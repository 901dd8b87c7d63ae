"""Numbers written as text: one strict grammar, and what a point means, decided by whole columns.

Python's ``float`` reads ``1_000``, ``nan`` and digits of any script; a table that holds those was
not meant as numbers, or was meant otherwise.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from hpcsamp.errors import DataError, UsageError

_CHARACTERS = frozenset("0123456789+-.eE")
_EXACT_DIGITS = 15
_DOUBTFUL = re.compile(r"[+-]?[1-9]\d{0,2}\.\d{3}", re.ASCII)
_GROUPED = re.compile(r"[+-]?\d{1,3}([ '.,\u00a0\u2009\u202f’]\d{3})+([.,]\d+)?", re.ASCII)
_MISSING = frozenset({"", "-", "na", "n/a", "n/e", "nan", "null", "none", "?", "."})


@dataclass(frozen=True)
class Notation:
    """How a file writes its numbers.

    Attributes
    ----------
    decimal
        ``"."`` or ``","``; ``None`` for a point, unless columns leave open what points mean.
    thousands
        What separates groups of three digits; ``""`` if nothing does.

    Raises
    ------
    UsageError
        If both are the same, or one is no such sign.
    """

    decimal: str | None = None
    thousands: str = ""

    def __post_init__(self) -> None:
        if self.decimal not in (None, ".", ","):
            raise UsageError(f"--decimal {self.decimal!r}: it is '.' or ','")
        if len(self.thousands) > 1 or (self.thousands and self.thousands in "0123456789+-eE"):
            raise UsageError(
                f"--thousands {self.thousands!r}: one sign is needed, such as '.' or ','"
            )
        if self.thousands and self.thousands == self.point:
            raise UsageError(
                f"--decimal and --thousands are both {self.point!r}; give the other one, too"
            )

    @property
    def point(self) -> str:
        """The decimal separator."""
        return self.decimal or ("," if self.thousands == "." else ".")

    def plain(self, cell: str) -> str:
        """A cell in Python's notation; ``""`` if it is not in this one."""
        if self.thousands and self.thousands in cell:
            group, point = re.escape(self.thousands), re.escape(self.point)
            if not re.fullmatch(rf"[+-]?\d{{1,3}}({group}\d{{3}})+({point}\d*)?", cell, re.ASCII):
                return ""
            cell = cell.replace(self.thousands, "")
        if self.point == ",":
            return "" if "." in cell else cell.replace(",", ".")
        return cell


class Numbers:
    """Rows of cells to rows of numbers, block by block.

    Parameters
    ----------
    path
        The file, for messages.
    names
        Of the columns.
    notation
        How numbers are written.
    missing
        Cells that stand for a missing value, which becomes NaN.
    """

    def __init__(
        self,
        path: object,
        names: Sequence[str],
        notation: Notation,
        missing: Collection[str] = (),
    ):
        self.path, self.names, self.notation, self.missing = path, names, notation, set(missing)
        self._open = notation.decimal is None and not notation.thousands
        self._doubts: dict[int, tuple[str, int]] = {}
        self._clear: set[int] = set()

    def read(self, rows: Sequence[Sequence[str]], lines: Sequence[int]) -> np.ndarray:
        """A block of rows as float64 of shape ``(rows, columns)``.

        Parameters
        ----------
        rows
            Cells, one per column.
        lines
            Line of the file that each row is from.

        Raises
        ------
        DataError
            Naming line and column of the first cell that is not a number.
        """
        out = np.empty((len(rows), len(self.names)))
        for column, cells in enumerate(zip(*rows, strict=True)):
            out[:, column] = self._column(column, [c.strip(" \t") for c in cells], lines)
        return out

    def finish(self) -> None:
        """Called once after the last block.

        Raises
        ------
        DataError
            If points may be decimal points or separate thousands, and nothing in the file decides.
        """
        for column, (cell, line) in sorted(self._doubts.items()):
            if column not in self._clear:
                raise DataError(
                    f"{self.path}: line {line}, column {self.names[column]!r}: {cell!r} may be "
                    f"{float(cell):g} or {cell.replace('.', '')}, and no cell of the column "
                    "decides which; give --decimal . or --thousands ."
                )

    def _column(self, column: int, cells: list[str], lines: Sequence[int]) -> list[float]:
        texts = cells
        if self.missing:
            texts = ["0" if c in self.missing else c for c in cells]
        if not self._open:
            texts = [self.notation.plain(c) for c in texts]
        try:
            if not _CHARACTERS.issuperset("".join(texts)):
                raise ValueError
            values = [float(t) for t in texts]
        except ValueError:
            values = [_number(t) for t in texts]
        for value, text, cell, line in zip(values, texts, cells, lines, strict=True):
            if not math.isfinite(value):
                raise self._fault(column, cell, line, "is not a finite number" + self._hint(cell))
            if value == 0 and text.lower().partition("e")[0].strip("+-0."):
                raise self._fault(column, cell, line, "is too small for a float64")
            whole = len(text) > _EXACT_DIGITS and text.lstrip("+-").isdigit()
            if whole and int(text) != int(value):
                raise self._fault(column, cell, line, "loses digits as a float64")
        if self._open:
            self._look(column, texts, lines)
        if self.missing:
            values = [
                math.nan if c in self.missing else v for c, v in zip(cells, values, strict=True)
            ]
        return values

    def _look(self, column: int, texts: Sequence[str], lines: Sequence[int]) -> None:
        """Note whether a column decides that its points are decimal points."""
        if column in self._clear:
            return
        for text, line in zip(texts, lines, strict=True):
            if "." in text:
                if not _DOUBTFUL.fullmatch(text):
                    self._clear.add(column)
                    return
                self._doubts.setdefault(column, (text, line))
            elif len(text.lstrip("+-")) > 3:  # a thousand without a separator
                self._clear.add(column)
                return

    def _fault(self, column: int, cell: str, line: int, what: str) -> DataError:
        shown = cell if len(cell) <= 40 else cell[:37] + "..."
        return DataError(
            f"{self.path}: line {line}, column {self.names[column]!r}: {shown!r} {what}"
        )

    def _hint(self, cell: str) -> str:
        if cell.lower() in _MISSING:
            return "; fill in missing values, or leave the row out"
        if _GROUPED.fullmatch(cell) or re.fullmatch(r"[+-]?\d+,\d*", cell, re.ASCII):
            return "; --decimal and --thousands tell how numbers are written"
        return ""


def _number(text: str) -> float:
    try:
        return float(text) if _CHARACTERS.issuperset(text) else math.nan
    except ValueError:
        return math.nan
