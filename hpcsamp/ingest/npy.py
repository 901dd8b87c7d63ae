"""Ingest memory-mapped ``.npy`` files, which may be larger than memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np

from hpcsamp.data.manifest import ArraySpec
from hpcsamp.data.roles import Inputs
from hpcsamp.data.shard import sha256
from hpcsamp.errors import DataError, UsageError
from hpcsamp.ingest.arrays import DEFAULT_FRACTIONS
from hpcsamp.ingest.asked import Asked, NormalizeY, Part, SplitSeed
from hpcsamp.ingest.division import Rule, divide
from hpcsamp.ingest.labels import classes_of, guess, labels_of, unseen
from hpcsamp.ingest.mapped import check_exact, mapped, take
from hpcsamp.ingest.npz import ENDINGS
from hpcsamp.ingest.pictures import Layout, channels_first
from hpcsamp.ingest.source import Source
from hpcsamp.names import Task


@dataclass
class Mapped(Source):
    """Items that are rows of memory-mapped arrays.

    Attributes
    ----------
    held
        ``x`` and ``y`` of the files that contain the rows of each split.
    rows
        Ascending row numbers of each split in its files.
    layout
        Axes of an image in ``x``.
    """

    held: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    rows: dict[str, np.ndarray] = field(default_factory=dict)
    layout: Layout | None = None

    def read(self, split: str, start: int, stop: int) -> Mapping[str, np.ndarray]:
        """See :class:`Source`."""
        x, y = self.held[split]
        rows = self.rows[split][start:stop]
        return {
            "x": channels_first(take(x, rows), self.layout, "x").astype(self.arrays["x"].dtype),
            "y": take(y, rows).reshape(len(rows), *self.arrays["y"].shape),
        }


def npy(
    folder: Annotated[
        str | Path, Asked("Folder with x.npy and y.npy, or the file of x.", "folder", kind=Path)
    ],
    *,
    targets: Annotated[
        str | Path | None, Asked("File of y, if a file of x is given.", "--targets", kind=Path)
    ] = None,
    task: Annotated[Task | None, Asked("Task; by default it follows from the type of y.")] = None,
    layout: Annotated[
        Layout | None, Asked("Axes of an image in x: channels first, last, or none.")
    ] = None,
    inputs: Annotated[
        Inputs | None, Asked("Kind of whole numbers in x; numbers are standardised.")
    ] = None,
    fractions: Mapping[str, Part] = DEFAULT_FRACTIONS,
    seed: SplitSeed = 0,
    rule: Rule | None = None,
    normalize_y: NormalizeY = False,
) -> Mapped:
    """Read ``x.npy`` and ``y.npy`` (and optionally ``x_valid.npy``, ...), memory-mapped.

    Parameters
    ----------
    folder
        Folder of the files, or the file of ``x``.
    targets
        File of ``y``, if ``folder`` is a file.
    task, layout, inputs, fractions, seed, normalize_y
        As in :func:`~hpcsamp.ingest.npz.npz`.
    rule
        Rule that splits the rows, if not at random; without columns, only their order can be used.

    Raises
    ------
    UsageError
        If ``layout`` or ``inputs`` must be given, or ``layout`` does not fit.
    DataError
        If a file cannot be read, or arrays do not fit together.

    Examples
    --------
    hpcsamp ingest npy folder --out data/arrays

    hpcsamp ingest npy x.npy --targets y.npy --normalize-y --out data/arrays
    """
    folder = Path(folder)
    files = _files(folder, None if targets is None else Path(targets))
    held: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for split, (x_file, y_file) in files.items():
        x, y = mapped(x_file), mapped(y_file)
        if x.ndim < 1 or y.ndim < 1 or len(x) != len(y) or not x.size or not y.size:
            raise DataError(
                f"{x_file} has shape {x.shape}, {y_file} has shape {y.shape}; both need the same "
                "number of items, at least 1"
            )
        if inputs is None and x.dtype.kind in "iu" and x.dtype != np.uint8:
            raise UsageError(
                f"{x_file} has whole numbers ({x.dtype}): ids, such as tokens of a text, or "
                "numbers, such as counts? Give --inputs ids (not standardised) or --inputs numbers "
                "(standardised)"
            )
        if inputs == "ids" and x.dtype.kind not in "iu":
            raise DataError(f"{x_file} has type {x.dtype}; ids need an integer type")
        first = held.get("train", (x, y))
        for file, values, like in ((x_file, x, first[0]), (y_file, y, first[1])):
            if values.shape[1:] != like.shape[1:] or values.dtype != like.dtype:
                raise DataError(
                    f"{file} has items of shape {values.shape[1:]} and type {values.dtype}, but "
                    f"train has {like.shape[1:]} and {like.dtype}"
                )
        held[split] = (x, y)
    x, y = held["train"]
    for split, (x_file, y_file) in files.items():
        check_exact(held[split][0], x_file)
        check_exact(held[split][1], y_file)
    where = str(files["train"][1])
    task = task or guess(where, {"train": (y, y)})
    classes: int | None = None
    notes: list[str] = []
    labels = {}
    if task == "classification":
        labels = {s: labels_of(np.asarray(b), str(files[s][1])) for s, (_, b) in held.items()}
        classes, notes = classes_of(str(folder), labels)
    parts, split_notes = divide(
        len(x),
        {name: part for name, part in fractions.items() if name not in held},
        seed,
        rule,
        None,
        labels=labels.get("train"),
        where=str(folder),
    )
    rows = {**parts, **{s: np.arange(len(held[s][0])) for s in held if s != "train"}}
    if labels:
        notes += unseen({s: labels.get(s, labels["train"])[r] for s, r in rows.items()})
    item = channels_first(np.asarray(x[:1]), layout, str(files["train"][0])).shape[1:]
    y_shape = () if labels else y.shape[1:]
    return Mapped(
        name=folder.stem,
        task=task,
        classes=classes,
        inputs=inputs or "numbers",
        normalize_y=normalize_y and classes is None,
        arrays={
            "x": ArraySpec.plan(item, x_type(x.dtype, inputs)),
            "y": ArraySpec.plan(y_shape, "<i8" if labels else _real(y.dtype)),
        },
        splits={s: len(rows[s]) for s in ("train", "valid", "test") if s in rows},
        source={
            "file": ", ".join(f.name for pair in files.values() for f in pair),
            "sha256": ", ".join(sha256(f) for pair in files.values() for f in pair),
        },
        transforms=[
            *split_notes,
            *([f"images of layout {layout} stored with their channels first"] if layout else []),
            *notes,
        ],
        report=notes,
        held={split: held.get(split, held["train"]) for split in rows},
        rows=rows,
        layout=layout,
    )


def _files(folder: Path, targets: Path | None) -> dict[str, tuple[Path, Path]]:
    """Return the files of ``x`` and ``y`` by split."""
    if folder.is_dir():
        if targets is not None:
            raise UsageError(
                f"{folder} is a folder, so its y.npy is read; give --targets only with a file"
            )
        found = {s: (folder / f"x{e}.npy", folder / f"y{e}.npy") for s, e in ENDINGS.items()}
        return {
            s: pair for s, pair in found.items() if s == "train" or any(f.exists() for f in pair)
        }
    if targets is None:
        raise UsageError(f"{folder}: give the file of y as --targets, or a folder with x.npy and "
                         "y.npy")  # fmt: skip
    return {"train": (folder, targets)}


def x_type(kind: np.dtype, inputs: Inputs | None) -> np.dtype:
    """Return the type in which inputs are stored."""
    if inputs == "ids":
        return np.dtype("<i8") if kind.itemsize == 8 else kind
    if kind.kind == "b":
        return np.dtype("u1")
    if kind.kind == "f" and kind.itemsize not in (4, 8):
        return np.dtype("<f4" if kind.itemsize == 2 else "<f8")
    return kind


def _real(kind: np.dtype) -> np.dtype:
    return kind if kind.kind == "f" and kind.itemsize in (4, 8) else np.dtype("<f8")
