"""Rows of a text file that were read once, on disk while they are needed: memory stays small."""

from __future__ import annotations

import tempfile
import weakref
from typing import IO

import numpy as np

from hpcsamp.errors import DataError


class Spool:
    """An array that grows by blocks of rows, in a file without a name.

    Parameters
    ----------
    width
        Columns.
    dtype
        Of the numbers.
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
        """Add rows, shape ``(n, width)``.

        Raises
        ------
        DataError
            If the disk is full.
        """
        try:
            self._file.write(np.ascontiguousarray(block, self.dtype).data)
        except OSError as e:
            raise DataError(
                f"{tempfile.gettempdir()}: cannot write: {e.strerror}; TMPDIR names another place"
            ) from None
        self._rows += len(block)
        self._map = None

    def array(self) -> np.ndarray:
        """All rows, shape ``(rows, width)``, mapped from the disk."""
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
