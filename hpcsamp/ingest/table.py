"""Base class of table readers: columns by name, at any ascending row numbers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from hpcsamp.ingest.times import Times

Role = Literal["number", "text", "time", "any"]
"""Use of a column: numbers, words, times, or any type."""


class Table(ABC):
    """Base class of tables: rows and named columns of one or more files.

    Attributes
    ----------
    path
        File or folder, for messages.
    names
        Names of the columns, in order.
    files
        Files that contain the rows.
    targets
        Columns that are targets, for messages.
    """

    path: Path
    names: list[str]
    files: list[Path]
    targets: Sequence[str] = ()

    @abstractmethod
    def prepare(self, roles: Mapping[str, Role]) -> None:
        """Prepare the table; called once before columns are read, with all columns to read.

        Raises
        ------
        DataError
            If a column cannot be read in its role; the message names its row or type.
        UsageError
            If an option is needed.
        """

    @property
    @abstractmethod
    def count(self) -> int:
        """Number of rows; known after :meth:`prepare`."""

    @abstractmethod
    def read(self, columns: Sequence[str], rows: np.ndarray) -> dict[str, np.ndarray]:
        """Read columns at ascending row numbers.

        Returns
        -------
        dict
            Columns by name, with ``len(rows)`` entries: numbers of any type (missing: NaN), words
            in an array of objects (missing: ``None``), times in UTC as ``datetime64[ns]`` (missing:
            NaT), or arrays of equal shapes, ``(len(rows), ...)``.
        """

    def row(self, number: int) -> str:
        """Name of a row in messages."""
        return f"row {number}"

    def times(self, column: str, words: np.ndarray) -> np.ndarray:
        """Parse the words of a column as times.

        Raises
        ------
        DataError
            If a word is not a time; the message names the row and column.
        """
        times = Times(self.path)
        cells = [times.read(word or "", at, column) for at, word in enumerate(words.tolist())]
        return np.asarray(cells, np.int64).view("datetime64[ns]")

    def class_names(self, column: str) -> list[str] | None:
        """Return the class names of a column of labels, if the file has them."""
        return None

    def index(self) -> list[str]:
        """Return the columns that number or name rows, which are features only if named."""
        return []

    def whole(self, column: str) -> bool:
        """Whether a column has whole numbers; some of them may be missing."""
        return False

    def pictures(self, column: str) -> bool:
        """Whether a column has encoded images."""
        return False

    def facts(self) -> dict[str, Any]:
        """Return further properties that are part of the identity of the rows."""
        return {}
