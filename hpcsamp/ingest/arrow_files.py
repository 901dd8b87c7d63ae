"""Find and open parquet and Arrow files, and read them in pieces."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpcsamp.errors import DataError
from hpcsamp.ingest.division import WORDS

_WORD = re.compile(rf"({'|'.join(sorted(WORDS, key=len, reverse=True))})(?=[-_.]|$)", re.IGNORECASE)


@dataclass(frozen=True)
class RowBatch:
    """Rows that are read together: a row group of a parquet file or a batch of an Arrow file.

    Attributes
    ----------
    file
        File of the rows.
    count
        Number of rows.
    load
        Function that reads columns by name.
    """

    file: Path
    count: int
    load: Callable[[list[str]], Any]


@contextmanager
def readable(file: Path) -> Iterator[None]:
    """Turn errors that Arrow raises for damaged files into a DataError of one line."""
    import pyarrow as pa

    try:
        yield
    except DataError:
        raise
    except (OSError, pa.ArrowException, ValueError, KeyError, MemoryError) as e:
        reason = str(e).splitlines()[0] if str(e) else type(e).__name__
        raise DataError(f"{file}: cannot be read: {reason}") from None


def open_parquet(file: Path) -> tuple[Any, list[RowBatch]]:
    """Open a parquet file: return its schema and row groups."""
    import pyarrow.parquet as pq

    opened = pq.ParquetFile(file, memory_map=False)

    def group(number: int) -> Callable[[list[str]], Any]:
        return lambda columns: opened.read_row_group(number, columns=columns, use_threads=False)

    metadata = opened.metadata
    return opened.schema_arrow, [
        RowBatch(file, metadata.row_group(i).num_rows, group(i))
        for i in range(metadata.num_row_groups)
    ]


def open_arrow(file: Path) -> tuple[Any, list[RowBatch]]:
    """Open a file or stream in Arrow's IPC format (or feather): return its schema and batches."""
    import pyarrow as pa

    with file.open("rb") as f:
        framed = f.read(6) == b"ARROW1"
    if framed:
        opened = pa.ipc.open_file(pa.OSFile(str(file)))

        def batch(number: int) -> Callable[[list[str]], Any]:
            return lambda columns: _table(opened.get_batch(number), columns)

        counts = [opened.get_batch(i).num_rows for i in range(opened.num_record_batches)]
        return opened.schema, [RowBatch(file, n, batch(i)) for i, n in enumerate(counts)]
    stream = pa.ipc.open_stream(pa.memory_map(str(file)))
    batches = list(stream)  # views of the mapped file

    def held(number: int) -> Callable[[list[str]], Any]:
        return lambda columns: _table(batches[number], columns)

    return stream.schema, [RowBatch(file, b.num_rows, held(i)) for i, b in enumerate(batches)]


def _table(batch: Any, columns: list[str]) -> Any:
    import pyarrow as pa

    return pa.Table.from_batches([batch]).select(columns)


def find(paths: Sequence[Path], ending: str) -> dict[str, list[Path]]:
    """Find the files of each split.

    Parameters
    ----------
    paths
        Files, or folders. Files of a folder may have names that begin with a split
        (``train-00000.parquet``); folders saved by ``datasets`` are recognised.
    ending
        Ending of the files of a folder.

    Raises
    ------
    DataError
        If a folder has no such files.
    """
    found: dict[str, list[Path]] = {}
    for path in paths:
        for split, files in files_of(path, ending).items():
            found.setdefault(split, []).extend(files)
    if "train" not in found:
        raise DataError(f"{paths[0]} has files of {', '.join(found)}, but none of train")
    return found


def files_of(path: Path, ending: str) -> dict[str, list[Path]]:
    """Find the files of one path by split; see :func:`find`."""
    if not path.is_dir():
        if not path.exists():
            raise DataError(f"{path}: no such file")
        return {"train": [path]}
    listed = _json(path / "dataset_dict.json")
    if listed is not None:
        parts = {str(name): path / str(name) for name in listed.get("splits", [])}
        unknown = [name for name in parts if name.lower() not in WORDS]
        if unknown:
            raise DataError(
                f"{path}: the split {unknown[0]!r} is none of {', '.join(WORDS)}; give the folder "
                "of each split instead"
            )
        return {WORDS[n.lower()]: files_of(part, ending)["train"] for n, part in parts.items()}
    state = _json(path / "state.json")
    if state is not None:
        if state.get("_indices_data_files") or state.get("_indices_files"):
            raise DataError(f"{path} is a selection of rows; save it again after flatten_indices()")
        return {"train": [path / str(f["filename"]) for f in state.get("_data_files", [])]}
    files = sorted(f for f in path.rglob(f"*{ending}") if not f.name.startswith((".", "_")))
    if not files:
        raise DataError(f"{path} has no files *{ending}")
    parted = next((f for f in files if any("=" in p for p in f.relative_to(path).parts[:-1])), None)
    if parted is not None:
        raise DataError(
            f"{parted}: partitioned tables, whose folders are values of a column, cannot be read; "
            "write the table without partitions"
        )
    splits = split_of_names(files)
    if splits is None:
        return {"train": files}
    by_split: dict[str, list[Path]] = {}
    for file in files:
        by_split.setdefault(splits[file], []).append(file)
    return by_split


def split_of_names(files: Sequence[Path]) -> dict[Path, str] | None:
    """Return the split in each file name; None if a name has no split, or no name has train."""
    words = [_WORD.match(file.name) for file in files]
    found = {f: WORDS[w[1].lower()] for f, w in zip(files, words, strict=True) if w is not None}
    return found if len(found) == len(files) and "train" in found.values() else None


def _json(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text("utf-8"))
    except (ValueError, OSError) as e:
        raise DataError(f"{path}: cannot be read: {e}") from None
    return content if isinstance(content, dict) else None
