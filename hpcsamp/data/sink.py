"""File object through which HDF5 writes, so that a full disk raises an error instead of a crash."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from hpcsamp.errors import DataError


class Sink:
    """File object through which HDF5 writes.

    HDF5 1.10 cannot close a file on a full disk: every later attempt fails and the interpreter
    crashes when it exits. So write errors are hidden from HDF5: data that cannot be written are
    dropped, and :meth:`check` raises the first error between two calls of the library.

    Parameters
    ----------
    path
        The file; an existing one is replaced.

    Raises
    ------
    DataError
        If the file cannot be created.
    """

    def __init__(self, path: Path):
        self.path = path
        self._error: OSError | None = None
        self._at = self._end = 0
        try:
            self._file = path.open("w+b", buffering=0)
        except OSError as e:
            raise DataError(f"{path}: cannot write: {e.strerror}") from e

    def check(self) -> None:
        """Raise the first write error so far.

        Raises
        ------
        DataError
            If a write has failed, e.g. because the disk is full.
        """
        if self._error is not None:
            raise DataError(f"{self.path}: cannot write: {self._error.strerror}") from self._error

    def sync(self) -> None:
        """Write everything to the disk, or raise :class:`DataError`."""
        self.check()
        try:
            os.fsync(self._file.fileno())
        except OSError as e:
            self._error = e
        self.check()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    # Called by HDF5 ------------------------------------------------------------------------------

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Set the position; the end of the file includes data that could not be written."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._end}[whence]
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        """Return the position of the next read or write."""
        return self._at

    def write(self, data: Any) -> int:
        """Write at the current position; after a write error, data are dropped without an error."""
        raw = memoryview(data).cast("B")
        done = 0
        while self._error is None and done < len(raw):
            try:
                done += os.pwrite(self._file.fileno(), raw[done:], self._at + done)
            except OSError as e:
                self._error = e
        self._at += len(raw)
        self._end = max(self._end, self._at)
        return len(raw)

    def read(self, size: int = -1) -> bytes:
        """Read bytes from the current position."""
        out = bytearray(max(0, self._end - self._at) if size < 0 else size)
        self.readinto(out)
        return bytes(out)

    def readinto(self, data: Any) -> int:
        """Read into a buffer from the current position; bytes never written are zero."""
        out = memoryview(data).cast("B")
        out[:] = bytes(len(out))
        got = os.preadv(self._file.fileno(), [out], self._at)
        self._at += len(out)
        return max(got, len(out))

    def truncate(self, size: int | None = None) -> int:
        """Set the length of the file."""
        self._end = self._at if size is None else size
        if self._error is None:
            try:
                os.ftruncate(self._file.fileno(), self._end)
            except OSError as e:
                self._error = e
        return self._end

    def flush(self) -> None:
        """Do nothing: writes are not buffered."""
