"""Arrays and tables of one's own: ``.npz`` files and numeric CSV."""

from __future__ import annotations

import csv
import math
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hpcsamp.data.manifest import ArraySpec, Task
from hpcsamp.data.shard import check_labels, check_values, sha256
from hpcsamp.errors import DataError, UsageError
from hpcsamp.ingest.source import ArraySource, split_items

DEFAULT_FRACTIONS = {"valid": 0.1, "test": 0.2}


def npz(
    path: str | Path,
    *,
    task: Task | None = None,
    fractions: Mapping[str, float] = DEFAULT_FRACTIONS,
    seed: int = 0,
    normalize_y: bool = False,
) -> ArraySource:
    """An ``.npz`` file with ``x`` and ``y``, and perhaps ``x_valid, y_valid, x_test, y_test``.

    Parameters
    ----------
    path
        The file. ``x`` has shape ``(n, ...)``, ``y`` shape ``(n,)`` or ``(n, ...)``.
    task
        ``None``: classification if ``y`` is a row of whole numbers in an integer type.
    fractions
        Parts of ``x`` that become the splits the file does not bring itself.
    seed
        Of that split.
    normalize_y
        Standardise targets in training.

    Raises
    ------
    DataError
        If the file is not readable, lacks an array, or arrays do not fit together.
    """
    path = Path(path)
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as f:
            held = {name: f[name] for name in f.files}
    except OSError as e:
        raise DataError(f"{path}: cannot be read: {e.strerror or e}") from None
    except (ValueError, AttributeError, EOFError, zipfile.BadZipFile) as e:
        raise DataError(f"{path}: not an .npz file of plain arrays: {e}") from None
    pairs: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for split, end in (("train", ""), ("valid", "_valid"), ("test", "_test")):
        x, y = held.get(f"x{end}"), held.get(f"y{end}")
        if x is None and y is None and end:
            continue
        if x is None or y is None:
            raise DataError(
                f"{path}: holds {sorted(held)}, but no {'x' if x is None else 'y'}{end}"
            )
        if x.ndim < 1 or y.ndim < 1 or len(x) != len(y) or not len(x):
            raise DataError(
                f"{path}: x{end} has shape {x.shape}, y{end} has shape {y.shape}; "
                "both need the same number of items, at least 1"
            )
        pairs[split] = (x, y)
    return from_arrays(
        pairs,
        name=path.stem,
        task=task,
        fractions={name: part for name, part in fractions.items() if name not in pairs},
        seed=seed,
        normalize_y=normalize_y,
        source={"file": path.name, "sha256": sha256(path)},
    )


def from_arrays(
    pairs: Mapping[str, tuple[np.ndarray, np.ndarray]],
    *,
    name: str,
    source: Mapping[str, Any],
    task: Task | None = None,
    fractions: Mapping[str, float] = DEFAULT_FRACTIONS,
    seed: int = 0,
    normalize_y: bool = False,
    descriptions: tuple[str, str] = ("", ""),
) -> ArraySource:
    """A source from ``(x, y)`` by split; ``train`` is dealt to the splits of ``fractions``.

    Raises
    ------
    DataError
        If types or shapes do not fit, or a value is NaN, naming the array.
    """
    file = str(source.get("file", name))
    x, y = pairs["train"]
    if task is None:
        task = "classification" if y.ndim == 1 and y.dtype.kind in "iu" else "regression"
    kinds = {"x": _stored(x, f"{file}: x"), "y": _stored(y, f"{file}: y")}
    if task == "classification":
        if y.ndim != 1 or not all((b == np.round(b)).all() for _, b in pairs.values()):
            raise DataError(f"{file}: labels must be whole numbers of shape (n,), y is {y.shape}")
        kinds["y"] = np.dtype("<i8")
    elif kinds["y"].kind != "f":
        kinds["y"] = np.dtype("<f8")
    for split, (a, b) in pairs.items():
        for array, values, first in (("x", a, x), ("y", b, y)):
            where = f"{file}: {array} of {split}"
            if values.shape[1:] != first.shape[1:]:
                raise DataError(f"{where} has items {values.shape[1:]}, train {first.shape[1:]}")
            _stored(values, where)
            check_values(values, where)
    classes = None
    if task == "classification":
        classes = max(2, max(int(b.max()) for _, b in pairs.values()) + 1)
        for split, (_, b) in pairs.items():
            check_labels(b, classes, f"{file}: y of {split}")
    labels = y if classes is not None else None
    parts = split_items(len(x), fractions, labels=labels, seed=seed)
    told = ", ".join(f"{name} {part:g}" for name, part in fractions.items())
    items = {
        split: {"x": x[rows].astype(kinds["x"]), "y": y[rows].astype(kinds["y"])}
        for split, rows in parts.items()
    }
    for split, (a, b) in pairs.items():
        if split != "train":
            items[split] = {"x": a.astype(kinds["x"]), "y": b.astype(kinds["y"])}
    return ArraySource(
        name=name,
        task=task,
        classes=classes,
        normalize_y=normalize_y,
        arrays={
            "x": ArraySpec.plan(x.shape[1:], kinds["x"], description=descriptions[0]),
            "y": ArraySpec.plan(y.shape[1:], kinds["y"], description=descriptions[1]),
        },
        splits={split: len(values["x"]) for split, values in items.items()},
        source=dict(source),
        transforms=[f"random split, {told}, seed {seed}"] if fractions else [],
        items=items,
    )


def _stored(values: np.ndarray, where: str) -> np.dtype:
    """The type that an array is stored in.

    Raises
    ------
    DataError
        If it does not hold numbers.
    """
    if values.dtype.kind == "b":
        return np.dtype("u1")
    if values.dtype.kind not in "iuf":
        raise DataError(f"{where} has type {values.dtype}; numbers are needed")
    return values.dtype.newbyteorder("<")


def read_columns(path: Path, delimiter: str = ",") -> tuple[list[str], np.ndarray]:
    """All columns of a numeric table with a header line.

    Returns
    -------
    tuple
        Names of the columns, and values of shape ``(rows, columns)``, float64.

    Raises
    ------
    DataError
        Naming line and column of the first cell that is no finite number, or a line with too many
        or too few cells.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as f:
            lines = csv.reader(f, delimiter=delimiter)
            names = [cell.strip() for cell in next(lines, [])]
            if not names:
                raise DataError(f"{path}: empty; a header line and rows of numbers are needed")
            rows = []
            for cells in lines:
                if not cells:
                    continue
                if len(cells) != len(names):
                    raise DataError(
                        f"{path}: line {lines.line_num} has {len(cells)} cells, the header has "
                        f"{len(names)}"
                    )
                rows.append(_numbers(path, lines.line_num, names, cells))
    except OSError as e:
        raise DataError(f"{path}: cannot be read: {e.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as e:
        raise DataError(f"{path}: not a table of text: {e}") from None
    if not rows:
        raise DataError(f"{path}: has a header line but no rows")
    return names, np.asarray(rows, np.float64)


def _numbers(path: Path, line: int, names: Sequence[str], cells: Sequence[str]) -> list[float]:
    numbers = []
    for name, cell in zip(names, cells, strict=True):
        try:
            number = float(cell)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise DataError(
                f"{path}: line {line}, column {name!r}: {cell.strip()!r} is not a finite number"
            )
        numbers.append(number)
    return numbers


def table(
    path: str | Path,
    targets: Sequence[str],
    *,
    features: Sequence[str] = (),
    delimiter: str = ",",
    task: Task = "regression",
    fractions: Mapping[str, float] = DEFAULT_FRACTIONS,
    seed: int = 0,
    normalize_y: bool = False,
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
        Between cells.
    task, fractions, seed, normalize_y
        As in :func:`npz`.

    Raises
    ------
    UsageError
        If a column is not there.
    DataError
        Naming line and column of a cell that is no number.
    """
    path = Path(path)
    names, values = read_columns(path, delimiter)
    for name in [*targets, *features]:
        if name not in names:
            raise UsageError(f"{path} has no column {name!r}, only {', '.join(names)}")
    if not targets:
        raise UsageError(f"--target is needed: one or more of {', '.join(names)}")
    chosen = list(features) or [name for name in names if name not in targets]
    if not chosen:
        raise UsageError(f"{path}: all of its columns are targets, none is left for x")
    y = values[:, [names.index(name) for name in targets]]
    return from_arrays(
        {
            "train": (
                values[:, [names.index(c) for c in chosen]],
                y[:, 0] if len(targets) == 1 else y,
            )
        },
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
    )
