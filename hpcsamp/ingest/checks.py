"""Check the items of a source while they are written, and accumulate their moments."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping

import numpy as np

from hpcsamp import kinds
from hpcsamp.data.roles import WEIGHT, counted, kinds_of, targets_of
from hpcsamp.data.shard import (
    check_flags,
    check_ids,
    check_labels,
    check_values,
    check_weights,
)
from hpcsamp.data.stats import Moments, check_digits, check_largest, check_stats
from hpcsamp.errors import DataError
from hpcsamp.ingest.source import Source

Block = Mapping[str, np.ndarray]


def check_block(source: Source, block: Block, where: str) -> None:
    """Refuse items that cannot be used: NaN, infinity, labels or ids out of range.

    Raises
    ------
    DataError
        If an item cannot be used; the message begins with ``where`` and names the array.
    """
    for name, kind in kinds_of(source).items():
        check_values(block[name], f"{where}: {name}")
        if kind == "ids":
            check_ids(block[name], f"{where}: {name}")
        elif kind == "flags":
            check_flags(block[name], f"{where}: {name}")
    for name, target in targets_of(source).items():
        if target.classes is not None:
            at = where if name == "y" else f"{where}: {name}"
            check_labels(block[name], target.classes, at, target.missing)
        else:
            check_values(block[name], f"{where}: {name}", target.missing)
        kinds.check_values(target.task, block[name], f"{where}: {name}")
    if WEIGHT in source.arrays:
        check_weights(block[WEIGHT], where)
    for name in counted(source):
        check_largest(block[name], columns(source, name), f"{where}: {name}")


def add_moments(source: Source, block: Block, moments: MutableMapping[str, Moments]) -> None:
    """Add a block of train to the moments of numeric arrays; missing values are ignored."""
    targets = targets_of(source)
    for name in counted(source):
        missing = name in targets and targets[name].missing is not None
        part = (Moments.of_known if missing else Moments.of)(block[name])
        moments[name] = moments[name] + part if name in moments else part


def check_moments(source: Source, moments: Mapping[str, Moments]) -> None:
    """Refuse statistics of train that cannot be used.

    Raises
    ------
    DataError
        If statistics are infinite or undefined; the message names the array and its column.
    """
    targets = targets_of(source)
    for name, found in moments.items():
        names = columns(source, name)
        where = f"{source.source.get('file', source.name)}: {name} of train"
        unknown = np.flatnonzero(np.asarray(found.count) == 0)
        if len(unknown):
            of = names[unknown[0]] if unknown[0] < len(names) else f"channel {unknown[0]}"
            raise DataError(f"{where}: all values of {of} are missing")
        values = found.stats()
        check_stats(values, names, where)
        if name == WEIGHT and not values.mean[0] > 0:
            raise DataError(f"{where}: all weights are 0")
        if name in targets and not targets[name].normalize:
            check_digits(values, names, where)


def columns(source: Source, array: str) -> list[str]:
    """Return the names of the columns of an array."""
    recorded: list[str] = source.source.get({"x": "columns", "y": "targets"}.get(array, ""), [])
    return recorded or source.arrays[array].names
