"""What becomes of the columns of a table, as it is asked for and as it is noted in a set."""

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

How = Literal["refuse", "drop", "mean", "keep"]
"""What is done with missing values."""


@dataclass(frozen=True)
class Preparation:
    """What becomes of the columns of a table.

    Attributes
    ----------
    drop
        Columns that are not used.
    date
        ``COLUMN=HOW`` for columns of times; see :data:`~hpcsamp.ingest.encoding.HOW`.
    onehot, ids
        Columns of words or whole numbers that become one number of 0 and 1 for each word, or the
        number of the word.
    missing
        ``"refuse"`` rows in which a value is missing, ``"drop"`` them, or put the ``"mean"`` of
        train in the place of a missing feature and drop rows whose target is missing; ``"keep"``
        does so but keeps those rows, which training and evaluation leave out where they lack.
    unit
        ``COLUMN=UNIT``.
    text, tokenizer, tokens
        A column of texts, the folder of its tokenizer and the number of tokens: the inputs
        ``input_ids`` and ``attention_mask``.
    class_name
        Names of the classes of a target, in the order of its labels; by default words are sorted.
        Of several targets ``TARGET=CLASS``.
    target_task
        ``TARGET=TASK`` for those of several targets that are not what ``task`` says.
    weight
        Column with a weight of each item.
    like
        A dataset folder whose columns, categories, classes and means are used.
    """

    drop: Annotated[Sequence[str], Asked("Column that is not used.", "--drop")] = ()
    date: Annotated[
        Sequence[str],
        Asked("COLUMN=HOW for times: seconds, day, week, year, day+year ..., cyclical.", "--date"),
    ] = ()
    onehot: Annotated[
        Sequence[str], Asked("Column of categories, one 0 or 1 for each.", "--onehot")
    ] = ()
    ids: Annotated[
        Sequence[str], Asked("Column of categories as ids, for an embedding.", "--ids")
    ] = ()
    missing: Annotated[
        How,
        Asked("Missing values: refuse; drop the rows; mean of train for features; keep targets."),
    ] = "refuse"
    unit: Annotated[Sequence[str], Asked("COLUMN=UNIT, such as load=MW.", "--unit")] = ()
    text: Annotated[str | None, Asked("Column of texts that becomes token ids and a mask.")] = None
    tokenizer: Annotated[Path | None, Asked("Folder of a tokenizer that transformers saved.")] = (
        None
    )
    tokens: Annotated[
        int | None, Asked("Tokens of a text; longer ones are cut. By default the longest.", least=1)
    ] = None
    class_name: Annotated[
        Sequence[str],
        Asked("Name of a class, in the order of labels; TARGET=CLASS of several.", "--class-name"),
    ] = ()
    target_task: Annotated[
        Sequence[str], Asked("TARGET=TASK of one of several targets.", "--target-task")
    ] = ()
    weight: Annotated[str | None, Asked("Column with a weight of each item.")] = None
    like: Annotated[
        Path | None, Asked("Dataset whose columns, categories and classes are used.")
    ] = None


def units_line(names: Sequence[str], told: Mapping[str, str]) -> str:
    """Units of named rows as one line; of one row its unit alone."""
    if len(names) == 1:
        return told.get(names[0], "")
    return ", ".join(f"{name} [{told[name]}]" for name in names if name in told)


def lines_of(encoded: Sequence[Encoded]) -> list[str]:
    """A line on each column of ids or texts."""
    lines = []
    for f in encoded:
        if isinstance(f, Category) and f.ids and f.words is not None:
            lines.append(f"column {f.column!r} has {len(f.words)} ids")
        if isinstance(f, Text):
            lines.append(
                f"column {f.column!r} has {f.length} tokens a text; {f.cut} texts were cut"
            )
    return lines


def transforms_of(encoded: Sequence[Encoded], made: Preparation) -> list[str]:
    """What was done to the columns."""
    lines = [] if made.missing == "refuse" else [f"rows with missing values: {made.missing}"]
    other = [f for f in encoded if type(f) is not Number]
    return lines + [f"column {f.column} as {', '.join(f.names[:10])}" for f in other[:100]]


def source_of(
    tables: Mapping[str, Table],
    encoded: Sequence[Encoded],
    targets: Sequence[str] | Mapping[str, Sequence[str]],
) -> dict[str, Any]:
    """Where the rows came from, and how their columns were encoded."""
    files = [file for table in tables.values() for file in table.files]
    hashes = [sha256(file) for file in files]
    many = hashlib.sha256("\n".join(hashes).encode()).hexdigest()
    told: dict[str, Any] = {
        "file": ", ".join(f.name for f in files[:10]) + ", ..." * (len(files) > 10),
        "sha256": hashes[0] if len(hashes) == 1 else many,
    }
    for table in tables.values():
        told |= table.facts()
    own = dict(targets) if isinstance(targets, Mapping) else [*targets]
    told["preparation"] = {"features": [f.describe() for f in encoded], "targets": own}
    if len(tables) > 1:
        told["splits"] = {split: [f.name for f in t.files] for split, t in tables.items()}
    return told
