"""Ingest parquet and Arrow files, and folders of HuggingFace's datasets."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from hpcsamp.errors import DataError, UsageError
from hpcsamp.ingest.arrays import DEFAULT_FRACTIONS
from hpcsamp.ingest.arrow_columns import (
    RAGGED,
    column_of,
    features_of,
    index_of,
    is_picture,
    is_whole,
)
from hpcsamp.ingest.arrow_files import RowBatch, files_of, find, open_arrow, open_parquet, readable
from hpcsamp.ingest.asked import Asked, NormalizeY, Part, SplitSeed
from hpcsamp.ingest.division import Rule
from hpcsamp.ingest.pictures import Pictures
from hpcsamp.ingest.preparation import Preparation
from hpcsamp.ingest.table import Role, Table
from hpcsamp.ingest.table_source import TableSource, from_tables
from hpcsamp.names import Task


class ArrowTable(Table):
    """Concatenated rows of parquet or Arrow files; one piece is in memory at a time.

    Parameters
    ----------
    path
        File or folder, for messages.
    files
        Files in order; all have the same columns.
    open_file
        Function that returns the schema and the pieces of a file.
    """

    def __init__(
        self,
        path: Path,
        files: Sequence[Path],
        open_file: Callable[[Path], tuple[Any, list[RowBatch]]],
    ):
        self.path, self.files = path, list(files)
        self._pieces: list[RowBatch] = []
        self._roles: dict[str, Role] = {}
        self._held: tuple[int, tuple[str, ...], Any] = (-1, (), None)
        schema: Any = None
        for file in self.files:
            with readable(file):
                found, pieces = open_file(file)
            if schema is not None and found.names != schema.names:
                other = sorted(set(found.names) ^ set(schema.names)) or found.names
                raise DataError(
                    f"{file} has other columns than {self.files[0]}: {', '.join(other[:5])}"
                )
            schema = found if schema is None else schema
            self._pieces += [piece for piece in pieces if piece.count]
        self._schema = schema
        self.names = list(schema.names)
        self._features = features_of(schema)
        self._ends = np.cumsum([piece.count for piece in self._pieces]).tolist()
        if not self._pieces:
            raise DataError(f"{path} has no rows")

    def prepare(self, roles: Mapping[str, Role]) -> None:
        """See :class:`~hpcsamp.ingest.table.Table`."""
        self._roles = dict(roles)

    @property
    def count(self) -> int:
        """See :class:`~hpcsamp.ingest.table.Table`."""
        return int(self._ends[-1])

    def read(self, columns: Sequence[str], rows: np.ndarray) -> dict[str, np.ndarray]:
        """See :class:`~hpcsamp.ingest.table.Table`."""
        parts: dict[str, list[np.ndarray]] = {name: [] for name in columns}
        begin = 0
        while begin < len(rows):
            at = bisect.bisect_right(self._ends, int(rows[begin]))
            end = int(np.searchsorted(rows, self._ends[at]))
            local = rows[begin:end] - (self._ends[at] - self._pieces[at].count)
            piece = self._load(at, tuple(dict.fromkeys(columns)))
            near = local[-1] - local[0] == len(local) - 1
            with readable(self._pieces[at].file):
                taken = piece.slice(int(local[0]), len(local)) if near else piece.take(local)
            for name in parts:
                where = f"{self._pieces[at].file}: rows from {rows[begin]} on, column {name!r}"
                role = self._roles.get(name, "any")
                parts[name].append(column_of(taken.column(name), role, where))
            begin = end
        return {name: self._joined(name, found) for name, found in parts.items()}

    def _joined(self, name: str, found: list[np.ndarray]) -> np.ndarray:
        if len({part.shape[1:] for part in found}) > 1:
            shapes = [part.shape[1:] for part in found]
            raise DataError(
                f"{self.path}: column {name!r}: lists have different lengths: {shapes[0]} and "
                f"{next(s for s in shapes if s != shapes[0])}; {RAGGED}"
            )
        if len({part.dtype.kind == "O" for part in found}) > 1:
            raise DataError(f"{self.path}: column {name!r} has different types in different files")
        return found[0] if len(found) == 1 else np.concatenate(found)

    def _load(self, at: int, columns: tuple[str, ...]) -> Any:
        if self._held[:2] != (at, columns):
            self._held = (-1, (), None)
            piece = self._pieces[at]
            with readable(piece.file):
                self._held = (at, columns, piece.load(list(columns)))
        return self._held[2]

    def class_names(self, column: str) -> list[str] | None:
        """See :class:`~hpcsamp.ingest.table.Table`; names of a ``ClassLabel`` of datasets."""
        feature = self._features.get(column)
        names = feature.get("names") if isinstance(feature, dict) else None
        return [str(name) for name in names] if names else None

    def index(self) -> list[str]:
        """See :class:`~hpcsamp.ingest.table.Table`; the index of a pandas table."""
        return [name for name in index_of(self._schema) if name in self.names]

    def whole(self, column: str) -> bool:
        """See :class:`~hpcsamp.ingest.table.Table`."""
        return is_whole(self._schema.field(column).type)

    def aware(self, column: str) -> bool:
        """Whether a column has times with a zone."""
        return getattr(self._schema.field(column).type, "tz", None) is not None

    def pictures(self, column: str) -> bool:
        """See :class:`~hpcsamp.ingest.table.Table`."""
        return is_picture(self._schema.field(column).type)


Paths = Annotated[Sequence[str | Path], Asked("Files or folders.", "files", kind=list[Path])]
Targets = Annotated[
    Sequence[str], Asked("Column of y; for several targets NAME=COLUMN,COLUMN.", "--target")
]
Features = Annotated[
    Sequence[str], Asked("Column of x; by default all columns but the targets.", "--feature")
]
OfSplit = Annotated[Path | None, Asked("File or folder of this split.")]
AnyTask = Annotated[Task | None, Asked("Task; by default it follows from the type of y.")]


def parquet(
    paths: Paths,
    targets: Targets = (),
    *,
    features: Features = (),
    preparation: Preparation | None = None,
    pictures: Pictures | None = None,
    task: AnyTask = None,
    fractions: Mapping[str, Part] = DEFAULT_FRACTIONS,
    valid_file: OfSplit = None,
    test_file: OfSplit = None,
    seed: SplitSeed = 0,
    rule: Rule | None = None,
    normalize_y: NormalizeY = False,
) -> TableSource:
    """Read parquet files; one row group is in memory at a time.

    Parameters
    ----------
    paths
        Files, or folders of ``*.parquet`` files, whose names may begin with their split.
    targets, features
        Columns of ``y`` and ``x``: numbers, lists of numbers, words, times or encoded images.
    preparation
        Encodings of columns of times and categories, and the treatment of missing values.
    pictures
        Options for reading images in a column.
    task
        Task of ``y``. By default words and whole numbers with few different values are classes.
    fractions, seed, rule
        Fractions, seed and rule of the splits that have no files.
    valid_file, test_file
        Files of these splits.
    normalize_y
        Standardise targets in training.

    Raises
    ------
    UsageError
        If a column does not exist, or needs an option for its encoding.
    DataError
        If a value cannot be used; the message names the file, row and column.

    Examples
    --------
    hpcsamp ingest parquet rows.parquet --target price --out data/price

    hpcsamp ingest parquet folder --target label --task classification --out data/labels
    """
    return _read("parquet", open_parquet, ".parquet", paths, valid_file, test_file, targets,
                 features=features, preparation=preparation, pictures=pictures, task=task,
                 fractions=fractions, seed=seed, rule=rule, normalize_y=normalize_y)  # fmt: skip


def arrow(
    paths: Paths,
    targets: Targets = (),
    *,
    features: Features = (),
    preparation: Preparation | None = None,
    pictures: Pictures | None = None,
    task: AnyTask = None,
    fractions: Mapping[str, Part] = DEFAULT_FRACTIONS,
    valid_file: OfSplit = None,
    test_file: OfSplit = None,
    seed: SplitSeed = 0,
    rule: Rule | None = None,
    normalize_y: NormalizeY = False,
) -> TableSource:
    """Read Arrow files (IPC, feather), or a folder that HuggingFace's datasets saved.

    Names of classes and columns of images come from the metadata of datasets; files are
    memory-mapped.

    Parameters
    ----------
    paths
        Files, or folders with ``state.json``, ``dataset_dict.json`` or ``*.arrow`` files.
    targets, features, preparation, pictures, task, fractions, seed, rule, normalize_y
        As in :func:`parquet`.
    valid_file, test_file
        Files of these splits.

    Raises
    ------
    UsageError
        If a column does not exist, or needs an option for its encoding.
    DataError
        If a value cannot be used; the message names the file, row and column.

    Examples
    --------
    hpcsamp ingest arrow rows.arrow --target price --out data/price

    hpcsamp ingest arrow saved --target label --task classification --out data/labels
    """
    return _read("arrow", open_arrow, ".arrow", paths, valid_file, test_file, targets,
                 features=features, preparation=preparation, pictures=pictures, task=task,
                 fractions=fractions, seed=seed, rule=rule, normalize_y=normalize_y)  # fmt: skip


def _read(
    kind: str,
    open_file: Callable[[Path], tuple[Any, list[RowBatch]]],
    ending: str,
    paths: Sequence[str | Path],
    valid_file: Path | None,
    test_file: Path | None,
    targets: Sequence[str],
    **how: Any,
) -> TableSource:
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        raise UsageError(f"ingest {kind} needs pyarrow: pip install hpcsamp[tables]") from None
    files = find([Path(p) for p in paths], ending)
    for split, path in (("valid", valid_file), ("test", test_file)):
        if path is not None:
            if split in files:
                raise UsageError(
                    f"{paths[0]} has a split {split} already; leave out --{split}-file"
                )
            files[split] = files_of(Path(path), ending)["train"]
    tables: dict[str, Table] = {
        split: ArrowTable(files[split][0] if len(files[split]) == 1 else Path(paths[0]),
                          files[split], open_file)
        for split in ("train", "valid", "test") if split in files
    }  # fmt: skip
    return from_tables(tables, targets, name=Path(paths[0]).resolve().stem, **how)
