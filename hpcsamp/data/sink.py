"""A file that HDF5 writes through, so that a full disk is one error and not a crash."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from hpcsamp.errors import DataError


class Sink:
    """A file that HDF5 writes through.

    HDF5 1.10 cannot close a file whose disk is full: it fails again at every later attempt and
    crashes when the interpreter ends. So it is never told: what cannot be written is dropped, and
    :meth:`check` raises the first error between two calls of the library.

    Parameters
    ----------
    path
        The file; replaced if it is there.

    Raises
    ------
    DataError
        If it cannot be made.
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
        """Raise what went wrong so far.

        Raises
        ------
        DataError
            If the disk is full, or whatever else the system says.
        """
        if self._error is not None:
            raise DataError(f"{self.path}: cannot write: {self._error.strerror}") from self._error

    def sync(self) -> None:
        """Have everything on the disk, or raise."""
        self.check()
        try:
            os.fsync(self._file.fileno())
        except OSError as e:
            self._error = e
        self.check()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    # What HDF5 calls -----------------------------------------------------------------------------

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place; the end is where it would be had everything been written."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._end}[whence]
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        """Where the next call reads or writes."""
        return self._at

    def write(self, data: Any) -> int:
        """Write at the place; after an error, only pretend to."""
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
        """Read from the place on."""
        out = bytearray(max(0, self._end - self._at) if size < 0 else size)
        self.readinto(out)
        return bytes(out)

    def readinto(self, data: Any) -> int:
        """Read from the place; zeros where nothing was written."""
        out = memoryview(data).cast("B")
        out[:] = bytes(len(out))
        got = os.preadv(self._file.fileno(), [out], self._at)
        self._at += len(out)
        return max(got, len(out))

    def truncate(self, size: int | None = None) -> int:
        """Set the length."""
        self._end = self._at if size is None else size
        if self._error is None:
            try:
                os.ftruncate(self._file.fileno(), self._end)
            except OSError as e:
                self._error = e
        return self._end

    def flush(self) -> None:
        """Nothing is kept back."""
