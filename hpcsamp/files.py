"""Files that are either whole or absent. Those that several processes write: see locks."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def sync(path: Path) -> None:
    """Have a file or folder on the disk before anything refers to it.

    Raises
    ------
    OSError
        If it cannot be.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def part_of(path: Path) -> Path:
    """Where a file is written before it takes its place: beside it, ``.NAME.part``."""
    return path.with_name(f".{path.name}.part")


def publish(part: Path, path: Path) -> None:
    """Give a finished file its name, where it replaces an older one; all of it is on disk then.

    Raises
    ------
    OSError
        If that is not possible; the old one is still there.
    """
    sync(part)
    part.replace(path)
    try:
        sync(path.parent)  # the new name must survive, too
    except OSError as e:
        if e.errno != errno.EINVAL:  # a file system that cannot do this for folders
            raise


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Write a file so that it is either the old one or the new one, whatever happens.

        with whole(path) as part:
            ...  # write the file `part`

    Raises
    ------
    OSError
        If it cannot be written (a full quota, no permission); the old one is still there, as after
        any other exception.
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
    """Write a text as a :func:`whole` file; in UTF-8, whatever the locale.

    Raises
    ------
    OSError
        If it cannot be written; the old one is still there.
    """
    with whole(path) as part:
        part.write_text(text, encoding="utf-8", errors="surrogateescape")
