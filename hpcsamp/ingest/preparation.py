"""Options that encode the columns of a table, and their record in a dataset."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from hpcsamp.data.shard import sha256
from hpcsamp.ingest.asked import Asked
from hpcsamp.ingest.encoding import Category, Encoded, Number
from hpcsamp.ingest.table import Table
from hpcsamp.ingest.texts import Text
from hpcsamp.spelling import joined

How = Literal["refuse", "drop", "mean", "keep"]
"""What to do with missing values in the columns of a table."""


@dataclass(frozen=True)
class Preparation:
    """Options for encoding the columns of a table.

    Attributes
    ----------
    drop
        Columns to leave out.
    date
        ``COLUMN=HOW`` for columns of times; see :data:`~hpcsamp.ingest.encoding.HOW`.
    onehot, ids
        Columns of words or whole numbers: ``onehot`` columns become a 0 or 1 for each category,
        ``ids`` columns the number of the category.
    missing
        ``"refuse"`` or ``"drop"`` rows with missing values; ``"mean"`` replaces missing features by
        their mean over train and drops rows with missing targets; ``"keep"`` replaces features in
        the same way but keeps missing targets, which training and evaluation ignore.
    unit
        ``COLUMN=UNIT``, the units of columns.
    text, tokenizer, tokens
        A column of texts, the folder of its tokenizer and the number of tokens. The column becomes
        the inputs ``input_ids`` and ``attention_mask``.
    class_name
        Names of the classes of a target, in the order of its labels; by default words are sorted.
        With several targets, ``TARGET=CLASS``.
    target_task
        ``TARGET=TASK`` for those of several targets whose task is not ``task``.
    weight
        Column with the weight of each item.
    like
        A dataset folder whose columns, categories, classes and means are reused.
    """

    drop: Annotated[Sequence[str], Asked("Column to leave out.", "--drop")] = ()
    date: Annotated[
        Sequence[str],
        Asked("COLUMN=HOW for times: seconds, day, week, year, day+year ..., cyclical.", "--date"),
    ] = ()
    onehot: Annotated[
        Sequence[str], Asked("Column of categories to encode one-hot.", "--onehot")
    ] = ()
    ids: Annotated[
        Sequence[str], Asked("Column of categories to encode as ids for an embedding.", "--ids")
    ] = ()
    missing: Annotated[
        How,
        Asked(
            "What to do with missing values: refuse, drop (their rows), mean (replace features by "
            "their mean over train), or keep (like mean, and targets stay missing)."
        ),
    ] = "refuse"
    unit: Annotated[Sequence[str], Asked("COLUMN=UNIT, such as load=MW.", "--unit")] = ()
    text: Annotated[str | None, Asked("Column of texts to encode as token ids and a mask.")] = None
    tokenizer: Annotated[Path | None, Asked("Folder of a tokenizer saved by transformers.")] = None
    tokens: Annotated[
        int | None,
        Asked(
            "Most tokens of a text; longer texts are truncated. Default: no limit.",
            least=1,
        ),
    ] = None
    class_name: Annotated[
        Sequence[str],
        Asked("Name of a class, in label order; for several targets TARGET=CLASS.", "--class-name"),
    ] = ()
    target_task: Annotated[
        Sequence[str], Asked("TARGET=TASK for one of several targets.", "--target-task")
    ] = ()
    weight: Annotated[str | None, Asked("Column with the weight of each item.")] = None
    like: Annotated[
        Path | None, Asked("Dataset whose columns, categories and classes are reused.")
    ] = None


def units_line(names: Sequence[str], units: Mapping[str, str]) -> str:
    """Join the units of named rows in one line; a single row has only its unit."""
    if len(names) == 1:
        return units.get(names[0], "")
    return ", ".join(f"{name} [{units[name]}]" for name in names if name in units)


def lines_of(encoded: Sequence[Encoded]) -> list[str]:
    """Return a line for the user about each column of ids or texts."""
    lines = []
    for f in encoded:
        if isinstance(f, Category) and f.ids and f.words is not None:
            lines.append(f"column {f.column!r} has {len(f.words)} ids")
        if isinstance(f, Text):
            lines.append(
                f"column {f.column!r} has {f.length} tokens per text; {f.cut} texts were cut"
            )
    return lines


def transforms_of(encoded: Sequence[Encoded], made: Preparation) -> list[str]:
    """Describe the encoding of the columns in lines for the manifest."""
    lines = [] if made.missing == "refuse" else [f"rows with missing values: {made.missing}"]
    other = [f for f in encoded if type(f) is not Number]
    return lines + [f"column {f.column} as {joined(f.names[:10])}" for f in other[:100]]


def source_of(
    tables: Mapping[str, Table],
    encoded: Sequence[Encoded],
    targets: Sequence[str] | Mapping[str, Sequence[str]],
) -> dict[str, Any]:
    """Record the files of the rows and how their columns were encoded."""
    files = [file for table in tables.values() for file in table.files]
    hashes = [sha256(file) for file in files]
    many = hashlib.sha256("\n".join(hashes).encode()).hexdigest()
    record: dict[str, Any] = {
        "file": ", ".join(f.name for f in files[:10]) + ", ..." * (len(files) > 10),
        "sha256": hashes[0] if len(hashes) == 1 else many,
    }
    for table in tables.values():
        record |= table.facts()
    own = dict(targets) if isinstance(targets, Mapping) else [*targets]
    record["preparation"] = {"features": [f.describe() for f in encoded], "targets": own}
    if len(tables) > 1:
        record["splits"] = {split: [f.name for f in t.files] for split, t in tables.items()}
    return record
