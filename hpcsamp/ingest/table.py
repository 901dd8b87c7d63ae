"""What the readers of tables have in common: columns by name, rows in any ascending choice."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from hpcsamp.ingest.times import Times

Role = Literal["number", "text", "time", "any"]
"""What a column is used as: numbers, words, times, or whatever it holds."""


class Table(ABC):
    """Rows and named columns of one or more files.

    Attributes
    ----------
    path
        Of the file or folder, for messages.
    names
        Columns in order.
    files
        Files that hold the rows.
    """

    path: Path
    names: list[str]
    files: list[Path]

    @abstractmethod
    def prepare(self, roles: Mapping[str, Role]) -> None:
        """Called once before columns are read, with all columns that will be.

        Raises
        ------
        DataError
            If a column cannot be read in its role, naming row or type.
        UsageError
            If an option is needed.
        """

    @property
    @abstractmethod
    def count(self) -> int:
        """Rows; known once columns are prepared."""

    @abstractmethod
    def read(self, columns: Sequence[str], rows: np.ndarray) -> dict[str, np.ndarray]:
        """Columns at ascending row numbers.

        Returns
        -------
        dict
            By name, with ``len(rows)`` entries: numbers of any type (NaN where one is missing),
            words in an array of objects (``None``), times in ``datetime64[ns]`` (NaT, UTC), or
            arrays of one shape in ``(len(rows), ...)``.
        """

    def row(self, number: int) -> str:
        """What messages call a row."""
        return f"row {number}"

    def times(self, column: str, words: np.ndarray) -> np.ndarray:
        """Words of a column as times.

        Raises
        ------
        DataError
            Naming row and column of one that is none.
        """
        times = Times(self.path)
        cells = [times.read(word or "", at, column) for at, word in enumerate(words.tolist())]
        return np.asarray(cells, np.int64).view("datetime64[ns]")

    def class_names(self, column: str) -> list[str] | None:
        """Names of the classes of a column of labels, where the file tells them."""
        return None

    def index(self) -> list[str]:
        """Columns that number or name the rows, and are features only if they are asked for."""
        return []

    def whole(self, column: str) -> bool:
        """Whether a column is of whole numbers, though some may be missing."""
        return False

    def pictures(self, column: str) -> bool:
        """Whether a column holds encoded images."""
        return False

    def facts(self) -> dict[str, Any]:
        """What else belongs to the identity of the rows."""
        return {}
