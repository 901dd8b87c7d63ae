"""Read labels of images from a csv file: a column of file names, and columns of labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hpcsamp.errors import DataError, UsageError
from hpcsamp.ingest.division import Rule, Values
from hpcsamp.ingest.labels import ItemTargets, targets_of
from hpcsamp.ingest.numbers import numbers_or_words
from hpcsamp.ingest.pictures import ENDINGS
from hpcsamp.ingest.tables import text_of
from hpcsamp.names import Task

FILES = ("file", "filename", "file_name", "image", "path")
"""Recognised names of the column with the file names of the images."""


@dataclass(frozen=True)
class LabelFile:
    """Labels of images, read from a csv file.

    Attributes
    ----------
    files
        Files of the images.
    targets
        Their labels or numbers.
    columns
        Function that returns other columns by name, for rules that split the items.
    """

    files: list[Path]
    targets: ItemTargets
    columns: Values


def read_labels(
    path: Path,
    folder: Path,
    target: Sequence[str],
    rule: Rule | None,
    task: Task | None,
    class_names: Sequence[str] = (),
) -> LabelFile:
    """Read the labels of images from a csv file.

    Parameters
    ----------
    path
        The csv file.
    folder
        Folder that file names are relative to.
    target
        Columns of labels. By default all columns except the file names and those of the rule.
    rule, task, class_names
        As in :func:`~hpcsamp.ingest.images.images`.

    Raises
    ------
    UsageError
        If a column does not exist.
    DataError
        If an image does not exist or is listed twice, or a row is damaged; the message names the
        line.
    """
    with text_of(path) as lines:
        header = [cell.strip() for cell in next(lines, [])]
        if len(header) < 2 or len(set(header)) < len(header):
            raise DataError(f"{path}: needs a header with at least two columns of different names")
        rows, numbers = [], []
        for cells in lines:
            if not cells:
                continue
            if len(cells) != len(header):
                raise DataError(
                    f"{path}: line {lines.line_num} has {len(cells)} cells, but the header has "
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
            raise DataError(f"{path}: line {line}: {file} is already listed in line {seen[file]}")
        seen[file] = line
        files.append(file)

    def column(name: str) -> np.ndarray:
        cells = [row[place[name]] for row in rows]
        for cell, line in zip(cells, numbers, strict=True):
            if not cell:
                raise DataError(f"{path}: line {line}, column {name!r}: the cell is empty")
        return numbers_or_words(cells)

    found = targets_of(
        {name: column(name) for name in chosen}, task, str(path), class_names or None
    )
    return LabelFile(files, found, column)


def _image(folder: Path, name: str, where: str) -> Path:
    for ending in ("", *ENDINGS):
        file = folder / f"{name}{ending}"
        if name and file.is_file():
            if not ending and file.suffix.lower() not in ENDINGS:
                continue
            return file
    raise DataError(f"{where}: the image {folder / name} does not exist")
