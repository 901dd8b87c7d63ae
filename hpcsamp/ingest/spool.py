"""Temporary array on disk for the rows of a text file, so that parsing needs little memory."""

from __future__ import annotations

import tempfile
import weakref
from typing import IO

import numpy as np

from hpcsamp.errors import DataError


class Spool:
    """An array that grows by blocks of rows, stored in an anonymous temporary file.

    Parameters
    ----------
    width
        Number of columns.
    dtype
        Type of the numbers.
    """

    def __init__(self, width: int, dtype: str):
        self.width, self.dtype = width, np.dtype(dtype)
        self._file: IO[bytes] = tempfile.TemporaryFile(prefix="hpcsamp-")  # noqa: SIM115
        weakref.finalize(self, self._file.close)
        self._rows = 0
        self._map: np.ndarray | None = None

    def __len__(self) -> int:
        return self._rows

    def append(self, block: np.ndarray) -> None:
        """Append rows, shape ``(n, width)``.

        Raises
        ------
        DataError
            If the file cannot be written, for example because the disk is full.
        """
        try:
            self._file.write(np.ascontiguousarray(block, self.dtype).data)
        except OSError as e:
            raise DataError(
                f"{tempfile.gettempdir()} cannot be written to: {e.strerror}; set TMPDIR to "
                f"another folder"
            ) from None
        self._rows += len(block)
        self._map = None

    def array(self) -> np.ndarray:
        """Return all rows, shape ``(rows, width)``, memory-mapped."""
        if self._map is None:
            self._file.flush()
            shape = (self._rows, self.width)
            empty = not self._rows or not self.width
            self._map = (
                np.zeros(shape, self.dtype)
                if empty
                else np.memmap(self._file, self.dtype, "r", shape=shape)
            )
        return self._map
