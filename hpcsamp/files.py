"""Write files atomically: a file is either whole or absent. For several writers, see locks."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def sync(path: Path) -> None:
    """Flush a file or folder to disk, before anything refers to it.

    Raises
    ------
    OSError
        If the flush fails.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_names(folder: Path) -> None:
    """Flush the file names in a folder to disk, if its file system supports this.

    Raises
    ------
    OSError
        If the flush fails.
    """
    try:
        sync(folder)
    except OSError as e:
        if e.errno != errno.EINVAL:
            raise


def part_of(path: Path) -> Path:
    """Return the temporary path at which a file is written: ``.NAME.part`` in its folder."""
    return path.with_name(f".{path.name}.part")


def publish(part: Path, path: Path) -> None:
    """Flush a finished file to disk and rename it, replacing an older file of this name.

    Raises
    ------
    OSError
        If that fails; the older file is then unchanged.
    """
    sync(part)
    part.replace(path)
    sync_names(path.parent)  # the new name must survive a crash, too


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Replace a file atomically: at any time either the old or the whole new file exists.

        with whole(path) as part:
            ...  # write the file `part`

    Raises
    ------
    OSError
        If it cannot be written (a full quota, no permission). The old file is then unchanged, as
        after any other exception.
    """
    part = part_of(path.with_name(f"{path.name}.{os.getpid()}"))
    try:
        yield part
        publish(part, path)
    except BaseException:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise


def write_whole(path: Path, text: str) -> None:
    """Write a text atomically (:func:`whole`), in UTF-8 for any locale.

    Raises
    ------
    OSError
        If it cannot be written; the old file is then unchanged.
    """
    with whole(path) as part:
        part.write_text(text, encoding="utf-8", errors="surrogateescape")
