"""Tables of numbers in text: csv files with a header line."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from hpcsamp.data.shard import sha256
from hpcsamp.errors import DataError, UsageError
from hpcsamp.ingest.arrays import DEFAULT_FRACTIONS, from_arrays
from hpcsamp.ingest.asked import Asked, NormalizeY, Part, SplitSeed
from hpcsamp.ingest.numbers import Notation, Numbers
from hpcsamp.ingest.source import ArraySource
from hpcsamp.names import Task

DELIMITERS = {"\\t": "\t", "tab": "\t", "space": " "}
"""Words for delimiters that a shell makes hard to write."""

BLOCK = 2**20
"""Cells held as text at a time."""

SHOWN = 20
"""Column names that a message lists at most."""


@contextmanager
def text_of(path: Path, delimiter: str = ",") -> Iterator[Any]:
    """The lines of a csv file as lists of cells.

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
        raise DataError(f"{path}: not a table of text: {e}; save it as UTF-8") from None
    except csv.Error as e:
        raise DataError(f"{path}: not a table of text: {e}") from None


def read_columns(
    path: Path,
    targets: Sequence[str],
    features: Sequence[str] = (),
    delimiter: str = ",",
    notation: Notation | None = None,
) -> tuple[list[str], np.ndarray]:
    """Columns of a table with a header line; others may hold anything.

    Parameters
    ----------
    targets, features
        The columns; without ``features`` all of them.

    Returns
    -------
    tuple
        Names of the features, and values of shape ``(rows, features and targets)``, float64.

    Raises
    ------
    UsageError
        If a column is not there or named twice, or none is left for a side.
    DataError
        Naming line and column of the first cell that is no finite number, or a line with too many
        or too few cells.
    """
    with text_of(path, delimiter) as lines:
        header = [cell.strip() for cell in next(lines, [])]
        trailing = len(header) > 1 and not header[-1]
        names = header[:-1] if trailing else header
        _check_header(path, names, delimiter)
        chosen = _choose(path, names, targets, features)
        place = {name: i for i, name in enumerate(names)}
        at = [place[name] for name in [*chosen, *targets]]
        numbers = Numbers(path, [*chosen, *targets], notation or Notation())
        rows: list[list[str]] = []
        begins: list[int] = []
        blocks: list[np.ndarray] = []
        size = max(1, BLOCK // len(at))
        for cells in lines:
            if not cells:
                continue
            if len(cells) != len(header) or (trailing and cells[-1].strip()):
                raise DataError(
                    f"{path}: line {lines.line_num} has {len(cells)} cells, the header has "
                    f"{len(names)}{' and a delimiter at its end' if trailing else ''}"
                )
            rows.append([cells[i] for i in at])
            begins.append(lines.line_num)
            if len(rows) == size:
                blocks.append(numbers.read(rows, begins))
                rows, begins = [], []
        if rows:
            blocks.append(numbers.read(rows, begins))
        numbers.finish()
    if not blocks:
        raise DataError(f"{path}: has a header line but no rows")
    return chosen, np.concatenate(blocks)


def _check_header(path: Path, names: Sequence[str], delimiter: str) -> None:
    if not any(names):
        raise DataError(f"{path}: empty; a header line and rows of numbers are needed")
    if len(names) == 1:
        other = next((d for d in (";", "\t", "|", ",") if d in names[0]), None)
        if other is not None:
            raise DataError(
                f"{path}: {delimiter!r} leaves one column, {_short(names[0])!r}; "
                f"give --delimiter {other!r}"
            )
    if all(_is_number(name) for name in names):
        raise DataError(
            f"{path}: its first line holds numbers ({_listed(names)}); a line with the names of "
            "the columns is needed"
        )


def _choose(
    path: Path, names: Sequence[str], targets: Sequence[str], features: Sequence[str]
) -> list[str]:
    """The features: all columns that are no targets, unless some are named."""
    count = Counter(names)
    for name in [*targets, *features]:
        if name not in count:
            raise UsageError(f"{path} has no column {name!r}, only {_listed(names)}")
    if not targets:
        raise UsageError(f"--target is needed: one or more of {_listed(names)}")
    wanted = set(targets)
    chosen = list(features) or [name for name in names if name not in wanted]
    if not chosen:
        raise UsageError(f"{path}: all of its columns are targets, none is left for x")
    for name, times in Counter([*chosen, *targets]).items():
        if not name:
            raise DataError(
                f"{path}: column {names.index('') + 1} has no name; name it, or the others by "
                "--feature"
            )
        if count[name] > 1:
            at = [i + 1 for i, other in enumerate(names) if other == name]
            raise DataError(
                f"{path}: columns {', '.join(map(str, at[:SHOWN]))} are all called {name!r}; "
                "names must differ"
            )
        if times > 1:
            where = "both as --target and as --feature" if name in wanted else "more than once"
            where = "more than once" if name not in set(features) else where
            raise UsageError(f"column {name!r} is named {where}")
        if not name.isprintable():
            raise DataError(f"{path}: the name {name!r} holds signs that cannot be printed")
    return chosen


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return _short(", ".join(names[:SHOWN])) + more if more else ", ".join(names)


def table(
    path: Annotated[str | Path, Asked("File to read.", "file", kind=Path)],
    targets: Annotated[
        Sequence[str], Asked("Column of y; may be given several times.", "--target")
    ],
    *,
    features: Annotated[
        Sequence[str], Asked("Column of x; by default all that are no target.", "--feature")
    ] = (),
    delimiter: Annotated[str, Asked("Between cells: ',', ';', '\\t' ...")] = ",",
    notation: Notation | None = None,
    task: Annotated[Task, Asked("What y is.")] = "regression",
    fractions: Mapping[str, Part] = DEFAULT_FRACTIONS,
    seed: SplitSeed = 0,
    normalize_y: NormalizeY = False,
) -> ArraySource:
    """A CSV file of numbers with a header line.

    Parameters
    ----------
    path
        The file.
    targets
        Column or columns of ``y``; one gives ``y`` of shape ``()``.
    features
        Columns of ``x``, all others if empty.
    delimiter
        Between cells: one sign, or one of the words :data:`DELIMITERS`.
    notation
        How numbers are written.
    task, fractions, seed, normalize_y
        As in :func:`~hpcsamp.ingest.npz.npz`.

    Raises
    ------
    UsageError
        If a column is not there, or is named twice.
    DataError
        Naming line and column of a cell that is no number.
    """
    path = Path(path)
    sign = DELIMITERS.get(delimiter, delimiter)
    if len(sign) != 1 or sign in '\r\n"' or sign.isalnum():
        raise UsageError(
            f"--delimiter {delimiter!r}: one sign is needed, such as ',' or ';' or '\\t'"
        )
    chosen, values = read_columns(path, targets, features, sign, notation)
    x, y = values[:, : len(chosen)], values[:, len(chosen) :]
    made = from_arrays(
        {"train": (x, y[:, 0] if len(targets) == 1 else y)},
        name=path.stem,
        task=task,
        fractions=fractions,
        seed=seed,
        normalize_y=normalize_y,
        source={
            "file": path.name,
            "sha256": sha256(path),
            "columns": chosen,
            "targets": [*targets],
        },
        descriptions=(", ".join(chosen), ", ".join(targets)),
        names=(chosen, targets),
    )
    made.report.extend(_suspicions(chosen, targets, x, y))
    return made


def _suspicions(
    chosen: Sequence[str], targets: Sequence[str], x: np.ndarray, y: np.ndarray
) -> list[str]:
    """Features that are allowed but rarely meant."""
    found = []
    if len(x) >= 10:
        counting = (np.diff(x[:10], axis=0) == 1).all(0)
        for j in np.flatnonzero(counting).tolist():
            if (np.diff(x[:, j]) == 1).all():
                found.append(
                    f"column {chosen[j]!r} counts the rows; name the other columns by --feature "
                    "unless it is a measurement"
                )
    for k, target in enumerate(targets):
        if (y[:, k] != y[0, k]).any():
            for j in np.flatnonzero(x[0] == y[0, k]).tolist():
                if np.array_equal(x[:, j], y[:, k]):
                    found.append(f"column {chosen[j]!r} is equal to the target {target!r}")
    return found
