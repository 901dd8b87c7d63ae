"""Labels of images in a csv file: a column of file names, and columns of what they show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hpcsamp.errors import DataError, UsageError
from hpcsamp.ingest.division import Rule, Values
from hpcsamp.ingest.labels import Targets, targets_of
from hpcsamp.ingest.numbers import numbers_or_words
from hpcsamp.ingest.pictures import ENDINGS
from hpcsamp.ingest.tables import text_of
from hpcsamp.names import Task

FILES = ("file", "filename", "file_name", "image", "path")
"""Names of the column that names the images."""


@dataclass(frozen=True)
class Labels:
    """What a csv file tells of images.

    Attributes
    ----------
    files
        The images.
    targets
        Their labels or numbers.
    columns
        Other columns by name, for rules that deal items to splits.
    """

    files: list[Path]
    targets: Targets
    columns: Values


def read_labels(
    path: Path,
    folder: Path,
    target: Sequence[str],
    rule: Rule | None,
    task: Task | None,
    class_names: Sequence[str] = (),
) -> Labels:
    """Read labels of images.

    Parameters
    ----------
    path
        The csv file.
    folder
        Where the names of files begin.
    target
        Columns of labels; all that are neither the files nor named by the rule if empty.
    rule, task, class_names
        As in :func:`~hpcsamp.ingest.images.images`.

    Raises
    ------
    UsageError
        If a column is not there.
    DataError
        Naming the line of an image that is not there, or comes twice, or of a damaged row.
    """
    with text_of(path) as lines:
        header = [cell.strip() for cell in next(lines, [])]
        if len(header) < 2 or len(set(header)) < len(header):
            raise DataError(f"{path}: needs a header of at least two columns with different names")
        rows, numbers = [], []
        for cells in lines:
            if not cells:
                continue
            if len(cells) != len(header):
                raise DataError(
                    f"{path}: line {lines.line_num} has {len(cells)} cells, the header has "
                    f"{len(header)}"
                )
            rows.append([cell.strip() for cell in cells])
            numbers.append(lines.line_num)
    if not rows:
        raise DataError(f"{path}: has a header line but no rows")
    named = next((n for n in header if n.lower() in FILES), header[0])
    reserved = {named, *(rule.columns if rule else [])}
    for name in [*target, *(rule.columns if rule else [])]:
        if name not in header:
            raise UsageError(f"{path} has no column {name!r}, only {', '.join(header[:20])}")
    chosen = list(target) or [name for name in header if name not in reserved]
    if not chosen:
        raise UsageError(f"{path}: no column is left for labels; its columns are "
                         f"{', '.join(header[:20])}")  # fmt: skip
    place = {name: i for i, name in enumerate(header)}
    files: list[Path] = []
    seen: dict[Path, int] = {}
    for cells, line in zip(rows, numbers, strict=True):
        file = _image(folder, cells[place[named]], f"{path}: line {line}")
        if file in seen:
            raise DataError(f"{path}: line {line}: {file} was already in line {seen[file]}")
        seen[file] = line
        files.append(file)

    def column(name: str) -> np.ndarray:
        cells = [row[place[name]] for row in rows]
        for cell, line in zip(cells, numbers, strict=True):
            if not cell:
                raise DataError(f"{path}: line {line}, column {name!r}: is empty")
        return numbers_or_words(cells)

    found = targets_of(
        {name: column(name) for name in chosen}, task, str(path), class_names or None
    )
    return Labels(files, found, column)


def _image(folder: Path, name: str, where: str) -> Path:
    for ending in ("", *ENDINGS):
        file = folder / f"{name}{ending}"
        if name and file.is_file():
            if not ending and file.suffix.lower() not in ENDINGS:
                continue
            return file
    raise DataError(f"{where}: there is no image {folder / name}")
