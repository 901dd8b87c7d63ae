"""Find images in trees of folders that are named after splits and classes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hpcsamp.errors import DataError, UsageError
from hpcsamp.ingest.division import WORDS
from hpcsamp.ingest.labels import ItemTargets
from hpcsamp.ingest.pictures import ENDINGS


def split_folders(folder: Path) -> dict[str, Path]:
    """Return the folders of the splits; if there are none, the whole folder as train.

    Raises
    ------
    DataError
        If the folder cannot be read, or two folders stand for the same split.
    """
    try:
        names = sorted(p.name for p in folder.iterdir() if p.is_dir() and p.name[0] != ".")
    except OSError as e:
        raise DataError(f"{folder}: cannot be read: {e.strerror}") from None
    splits = {name: WORDS[name.lower()] for name in names if name.lower() in WORDS}
    if "train" not in splits.values() or len(splits) < len(names):
        return {"train": folder}
    for split in splits.values():
        twice = [name for name, s in splits.items() if s == split]
        if len(twice) > 1:
            raise DataError(f"{folder}: {' and '.join(twice)} would both be the split {split}")
    order = ("train", "valid", "test")
    return {split: folder / name for split in order for name, s in splits.items() if s == split}


def images_in(folder: Path) -> tuple[list[Path], list[str]]:
    """Return the images below a folder, sorted by name, and the names of other files."""
    found: list[Path] = []
    skipped: list[str] = []
    seen = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        at = Path(place).stat()
        key = (at.st_dev, at.st_ino)
        if key in seen:  # links can be circular
            folders.clear()
            continue
        seen.add(key)
        folders[:] = sorted(name for name in folders if name[0] != ".")
        for name in files:
            if name[0] == ".":
                continue
            if Path(name).suffix.lower() in ENDINGS:
                found.append(Path(place, name))
            else:
                skipped.append(str(Path(place, name).relative_to(folder)))
    return sorted(found, key=lambda p: p.relative_to(folder).parts), sorted(skipped)


def class_folders(folder: Path, items: Sequence[tuple[str, Path, Any]]) -> ItemTargets:
    """Return labels from the names of the first folders below each tree.

    Parameters
    ----------
    items
        Split, file and tree of each image.

    Raises
    ------
    UsageError
        If an image is not in the folder of a class.
    DataError
        If a folder is empty, or there is only one class.
    """
    classes = []
    for _, file, tree in items:
        parts = file.relative_to(tree).parts
        if len(parts) < 2:
            raise UsageError(
                f"{file} is not in a folder named after its class; give --labels FILE or --masks "
                "FOLDER for other targets"
            )
        classes.append(parts[0])
    for tree in {tree for _, _, tree in items}:
        empty = _empty(tree)
        if empty:
            raise DataError(f"{empty} is the folder of a class, but has no images")
    names = sorted(set(classes))
    if len(names) < 2:
        raise DataError(f"{folder} has one class, {names[0]!r}, but at least 2 are needed")
    place = {name: i for i, name in enumerate(names)}
    return ItemTargets(
        np.asarray([place[c] for c in classes], "<i8"), "classification", len(names), names
    )


def _empty(tree: Path) -> Path | None:
    for child in sorted(tree.iterdir()):
        if child.is_dir() and child.name[0] != "." and not any(_names_in(child)):
            return child
    return None


def _names_in(folder: Path) -> Iterator[str]:
    for _, _, files in os.walk(folder, followlinks=True):
        yield from (n for n in files if n[0] != "." and Path(n).suffix.lower() in ENDINGS)


def some(names: Sequence[str]) -> str:
    """Join the first names of a list for a message."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
