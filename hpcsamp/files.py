"""Files that several processes write: whole or not at all, and by one at a time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Write a file so that it is either the old one or the new one, whatever happens.

    Raises
    ------
    OSError
        If it cannot be written (a full quota, no permission); the old one is still there.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("w") as f:
            f.write(text)
            f.flush()
            os.fsync(f.fileno())
        temporary.replace(path)
    except OSError:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


@contextmanager
def locked(path: Path, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold the lock of a file, which is there for as long as somebody has it.

    The lock goes with its process, however that ends. On a file system without locks there is none.

    Parameters
    ----------
    waiting
        Called once if somebody else has it, who is then waited for.

    Raises
    ------
    BlockingIOError
        If somebody else has it, and ``waiting`` is None.
    OSError
        If the file cannot be made.
    """
    handle = _take(path, waiting)
    try:
        yield
    finally:
        with suppress(OSError):  # a file that stays is no lock
            path.unlink()
        os.close(handle)


def _take(path: Path, waiting: Callable[[], None] | None) -> int:
    """The open file, locked: the one that is there, not one which its last holder has removed."""
    told = False
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if waiting is None:
                    raise
                if not told:
                    waiting()
                told = True
                fcntl.flock(handle, fcntl.LOCK_EX)
            except OSError:
                return handle  # a file system without locks
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(handle), path.stat()):
                    return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)
