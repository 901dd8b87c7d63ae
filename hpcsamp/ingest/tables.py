"""Ingest csv files with a header line."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from hpcsamp.errors import DataError, UsageError
from hpcsamp.ingest.arrays import DEFAULT_FRACTIONS, EXACT
from hpcsamp.ingest.asked import Asked, NormalizeY, Part, SplitSeed
from hpcsamp.ingest.choice import listed, short
from hpcsamp.ingest.division import Rule
from hpcsamp.ingest.mapped import take
from hpcsamp.ingest.numbers import Notation, NumberParser, numbers_or_words
from hpcsamp.ingest.preparation import Preparation
from hpcsamp.ingest.spool import Spool
from hpcsamp.ingest.table import Role, Table
from hpcsamp.ingest.table_source import TableSource, from_tables
from hpcsamp.ingest.times import Times
from hpcsamp.names import Task

DELIMITERS = {"\\t": "\t", "tab": "\t", "space": " "}
"""Names of delimiters that are hard to write in a shell."""

BLOCK = 2**20
"""Number of cells held as text at a time."""

MISSING = frozenset(
    {
        "",
        "-",
        "?",
        ".",
        "NA",
        "N/A",
        "n/e",
        "NaN",
        "NULL",
        "None",
        "na",
        "n/a",
        "nan",
        "null",
        "none",
    }
)
"""Cells that mark a missing number."""


@contextmanager
def text_of(path: Path, delimiter: str = ",") -> Iterator[Any]:
    """Open a csv file and read its lines as lists of cells.

    Raises
    ------
    DataError
        If it cannot be read, or is not a table in UTF-8.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as f:
            yield csv.reader(f, delimiter=delimiter, strict=True)
    except OSError as e:
        raise DataError(f"{path}: cannot be read: {e.strerror}") from None
    except UnicodeDecodeError as e:
        raise DataError(f"{path}: not a text table: {e}; save it as UTF-8") from None
    except csv.Error as e:
        raise DataError(f"{path}: not a text table: {e}") from None


class CsvTable(Table):
    """A csv file with a header line; its columns are parsed once into temporary files.

    Parameters
    ----------
    path
        The file.
    delimiter
        Delimiter of cells.
    notation
        Notation of the numbers.
    date_format
        Format of times as in ``strptime``; by default ISO 8601.
    gaps
        Whether empty cells and the words of :data:`MISSING` mark missing numbers; if not, they are
        refused.
    """

    def __init__(
        self,
        path: Path,
        delimiter: str = ",",
        notation: Notation | None = None,
        date_format: str | None = None,
        gaps: bool = False,
    ):
        self.path, self.files = path, [path]
        self.delimiter, self.notation = delimiter, notation or Notation()
        self.gaps = gaps
        self._times = Times(path, date_format)
        with text_of(path, delimiter) as lines:
            header = [cell.strip() for cell in next(lines, [])]
        self._trailing = len(header) > 1 and not header[-1]
        self.names = header[:-1] if self._trailing else header
        _check_header(path, self.names, delimiter)
        self._place = {name: i for i, name in enumerate(self.names)}
        self._numbers: list[str] = []
        self._words: list[str] = []
        self._dates: list[str] = []
        self._any: set[str] = set()
        self._known: dict[str, dict[str, int]] = {}
        self._lines = Spool(1, "<i8")

    def prepare(self, roles: Mapping[str, Role]) -> None:
        """See :class:`~hpcsamp.ingest.table.Table`."""
        self._numbers = [name for name, role in roles.items() if role == "number"]
        self._words = [name for name, role in roles.items() if role in ("text", "any")]
        self._dates = [name for name, role in roles.items() if role == "time"]
        self._any = {name for name, role in roles.items() if role == "any"}
        self._known = {name: {} for name in self._words}
        self._spools = (
            Spool(len(self._numbers), "<f8"),
            Spool(len(self._words), "<i4"),
            Spool(len(self._dates), "<i8"),
        )
        self._lines = Spool(1, "<i8")
        at = [self._place[n] for n in (*self._numbers, *self._words, *self._dates)]
        numbers = NumberParser(
            self.path, self._numbers, self.notation, MISSING if self.gaps else (), self.targets
        )
        size = max(1, BLOCK // max(1, len(at)))
        rows: list[list[str]] = []
        begins: list[int] = []
        width = len(self.names) + self._trailing
        with text_of(self.path, self.delimiter) as lines:
            next(lines, None)
            for cells in lines:
                if not cells:
                    continue
                if len(cells) != width or (self._trailing and cells[-1].strip()):
                    raise DataError(
                        f"{self.path}: line {lines.line_num} has {len(cells)} cells, but the "
                        f"header has {len(self.names)}"
                        f"{' and a delimiter at its end' if self._trailing else ''}"
                    )
                rows.append([cells[i] for i in at])
                begins.append(lines.line_num)
                if len(rows) == size:
                    self._keep(numbers, rows, begins)
                    rows, begins = [], []
            if rows:
                self._keep(numbers, rows, begins)
        numbers.finish()
        if not len(self._lines):
            raise DataError(f"{self.path}: has a header line but no rows")

    def _keep(self, numbers: NumberParser, rows: list[list[str]], lines: list[int]) -> None:
        """Parse a block of rows and append it to the spools."""
        first, second = len(self._numbers), len(self._numbers) + len(self._words)
        if first:
            self._spools[0].append(numbers.read([row[:first] for row in rows], lines))
        codes = np.empty((len(rows), len(self._words)), np.int32)
        for j, name in enumerate(self._words):
            known = self._known[name]
            for i, row in enumerate(rows):
                word = row[first + j].strip()
                codes[i, j] = known.setdefault(word, len(known)) if word else -1
        self._spools[1].append(codes)
        times = [
            [self._times.read(cell, line, name) for cell, name in
             zip(row[second:], self._dates, strict=True)]
            for row, line in zip(rows, lines, strict=True)
        ]  # fmt: skip
        self._spools[2].append(np.asarray(times, np.int64).reshape(len(rows), len(self._dates)))
        self._lines.append(np.asarray(lines)[:, None])

    @property
    def count(self) -> int:
        """See :class:`~hpcsamp.ingest.table.Table`."""
        return len(self._lines)

    def row(self, number: int) -> str:
        """See :class:`~hpcsamp.ingest.table.Table`."""
        return f"line {int(self._lines.array()[number, 0])}"

    def read(self, columns: Sequence[str], rows: np.ndarray) -> dict[str, np.ndarray]:
        """See :class:`~hpcsamp.ingest.table.Table`."""
        numbers, codes, times = (_rows(s.array(), rows) for s in self._spools)
        place = {name: j for j, name in enumerate(self._numbers)}
        found: dict[str, np.ndarray] = {}
        for name in columns:
            if name in place:
                found[name] = numbers[:, place[name]]
            elif name in self._known:
                found[name] = self._lexicon(name)[codes[:, self._words.index(name)]]
            else:
                found[name] = times[:, self._dates.index(name)].view("datetime64[ns]")
        return found

    def times(self, column: str, words: np.ndarray) -> np.ndarray:
        """See :class:`~hpcsamp.ingest.table.Table`."""
        cells = [self._times.read(word or "", at, column) for at, word in enumerate(words.tolist())]
        return np.asarray(cells, np.int64).view("datetime64[ns]")

    def facts(self) -> dict[str, Any]:
        """Return the requested notation of the file; later tables are read with it by default."""
        stated = {
            "delimiter": self.delimiter if self.delimiter != "," else None,
            "decimal": self.notation.decimal,
            "thousands": self.notation.thousands or None,
            "date_format": self._times.form,
        }
        return {name: value for name, value in stated.items() if value is not None}

    def _lexicon(self, name: str) -> np.ndarray:
        """Return the values of a column by code, with a missing value last: words or numbers.

        They are numbers if all words are numbers or words of :data:`MISSING`, which then mark
        missing values.
        """
        words = list(self._known[name])
        known = [word for word in words if word not in MISSING]
        found = numbers_or_words(known) if name in self._any else np.asarray(known, object)
        if not known or found.dtype.kind not in "if":
            return np.asarray([*words, None], object)
        codes = self._spools[1].array()[:, self._words.index(name)]
        if len(known) == len(words) and not (codes < 0).any():
            return np.append(found, found[:1])
        if np.abs(found).max() > EXACT:
            return np.asarray([*(w if w in known else None for w in words), None], object)
        values = dict(zip(known, found.tolist(), strict=True))
        return np.asarray([*(values.get(word, np.nan) for word in words), np.nan])


def _rows(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Read ascending rows of a mapped array; the array may have no columns."""
    if not values.shape[1]:
        return np.empty((len(rows), 0), values.dtype)
    return take(values, rows)


def _check_header(path: Path, names: Sequence[str], delimiter: str) -> None:
    if not any(names):
        raise DataError(f"{path} is empty; a header line and rows are needed")
    if len(names) == 1:
        other = next((d for d in (";", "\t", "|", ",") if d in names[0]), None)
        if other is not None:
            raise DataError(
                f"{path}: the delimiter {delimiter!r} finds one column, {short(names[0])!r}; "
                f"give --delimiter {other!r}"
            )
    if all(_is_number(name) for name in names):
        raise DataError(
            f"{path}: the first line has numbers ({listed(names)}), but must have the names of "
            "the columns"
        )


def check_delimiter(name: str) -> str:
    """Return a delimiter from the character, or its name in :data:`DELIMITERS`.

    Raises
    ------
    UsageError
        If it is not a single character that may delimit cells.
    """
    sign = DELIMITERS.get(name, name)
    if len(sign) != 1 or sign in '\r\n"' or sign.isalnum():
        raise UsageError(f"--delimiter {name!r} must be one character, such as ',' or ';' or '\\t'")
    return sign


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def table(
    path: Annotated[str | Path, Asked("File to read.", "file", kind=Path)],
    targets: Annotated[
        Sequence[str], Asked("Column of y; for several targets NAME=COLUMN,COLUMN.", "--target")
    ] = (),
    *,
    features: Annotated[
        Sequence[str],
        Asked("Column of x; by default all columns but the targets.", "--feature"),
    ] = (),
    delimiter: Annotated[str, Asked("Delimiter of cells: ',', ';', '\\t' ...")] = ",",
    notation: Notation | None = None,
    date_format: Annotated[
        str | None, Asked("Format of times, e.g. '%d.%m.%Y %H:%M'; by default ISO 8601.")
    ] = None,
    preparation: Preparation | None = None,
    task: Annotated[Task, Asked("Task of the targets y.")] = "regression",
    fractions: Mapping[str, Part] = DEFAULT_FRACTIONS,
    valid_file: Annotated[Path | None, Asked("File of the split valid.")] = None,
    test_file: Annotated[Path | None, Asked("File of the split test.")] = None,
    seed: SplitSeed = 0,
    rule: Rule | None = None,
    normalize_y: NormalizeY = False,
) -> TableSource:
    """Read a csv file with a header line.

    Parameters
    ----------
    path
        The file.
    targets
        Column or columns of ``y``; with one column ``y`` has shape ``()``. For classification a
        column may have words.
    features
        Columns of ``x``; by default all others.
    delimiter
        Delimiter of cells: one character, or one of the names in :data:`DELIMITERS`.
    notation
        Notation of the numbers.
    date_format
        Format of times, as in ``strptime``.
    preparation
        Encodings of columns of dates and categories, and the treatment of missing values.
    task, fractions, seed, normalize_y
        As in :func:`~hpcsamp.ingest.npz.npz`.
    valid_file, test_file
        Files of these splits; ``path`` is divided among the others.
    rule
        Rule that splits the rows, if not at random.

    Raises
    ------
    UsageError
        If a column does not exist, is named twice, or needs an option for its encoding.
    DataError
        If a cell is not a number; the message names its line and column.

    Examples
    --------
    hpcsamp ingest csv load.csv --target load --normalize-y --out data/load

    hpcsamp ingest csv load.csv --target load --date 'time=cyclical' --delimiter ';' --out data/load
    """
    sign = check_delimiter(delimiter)
    gaps = preparation is not None and preparation.missing != "refuse"
    files = {"train": path, "valid": valid_file, "test": test_file}
    tables = {
        split: CsvTable(Path(file), sign, notation, date_format, gaps)
        for split, file in files.items()
        if file is not None
    }
    return from_tables(
        tables,
        targets,
        name=Path(path).stem,
        features=features,
        preparation=preparation,
        task=task,
        fractions=fractions,
        seed=seed,
        rule=rule,
        normalize_y=normalize_y,
    )
