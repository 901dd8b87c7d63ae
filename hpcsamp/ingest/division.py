"""Split items into train, valid and test: at random, by a column, in time order, by groups."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from hpcsamp.errors import DataError, UsageError
from hpcsamp.ingest.asked import Asked
from hpcsamp.ingest.source import check_fractions, split_items
from hpcsamp.streams import Purpose, numpy_generator

WORDS = {
    "train": "train",
    "training": "train",
    "valid": "valid",
    "val": "valid",
    "validation": "valid",
    "dev": "valid",
    "test": "test",
    "testing": "test",
}
"""Names of splits in folders and columns, and the name of the split in a dataset."""

ROWS = "rows"
"""Value of ``chronological`` that stands for the order of the rows."""

Values = Callable[[str], np.ndarray]
"""Function that returns a column by name: shape ``(items,)``; numbers, times or text."""


@dataclass(frozen=True)
class Rule:
    """Rule that splits items by a column, in time order or by groups.

    Attributes
    ----------
    split_column
        A column that names the split of each item.
    chronological
        A column of times or numbers, or ``"rows"``: the first items are train, followed by valid
        and test. Items of the same time are never in different splits.
    gap
        Number of items left out before valid and before test, with ``chronological``.
    group
        A column; all items with the same value are in the same split.

    Raises
    ------
    UsageError
        If more than one rule is given.
    """

    split_column: Annotated[
        str | None, Asked("Column that names the split of each item: train, valid or test.")
    ] = None
    chronological: Annotated[
        str | None,
        Asked("Split items in the order of this column, or of the rows with 'rows': train first."),
    ] = None
    gap: Annotated[int, Asked("Items left out between splits of --chronological.", least=0)] = 0
    group: Annotated[
        str | None, Asked("Column of groups; items of a group are always in the same split.")
    ] = None

    def __post_init__(self) -> None:
        options = {
            "--split-column": self.split_column,
            "--chronological": self.chronological,
            "--group": self.group,
        }
        given = [option for option, value in options.items() if value is not None]
        if len(given) > 1:
            raise UsageError(f"{given[0]} and {given[1]} exclude each other; give one of them")
        if self.gap and self.chronological is None:
            raise UsageError("--gap needs --chronological: it separates splits in time order")

    @property
    def columns(self) -> list[str]:
        """Names of the columns that the rule needs."""
        columns = (self.split_column, self.chronological, self.group)
        return [name for name in columns if name is not None and name != ROWS]


def divide(
    count: int,
    fractions: Mapping[str, float],
    seed: int,
    rule: Rule | None = None,
    values: Values | None = None,
    *,
    labels: np.ndarray | None = None,
    where: str = "items",
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Split items into train, valid and test.

    Parameters
    ----------
    count
        Number of items.
    fractions
        Fraction of each split except ``train``, which gets the rest.
    seed
        Seed of random splits.
    rule
        Rule that splits the items; at random if ``None``.
    values
        Function that returns a column named by the rule.
    labels
        Classes, shape ``(count,)``, to stratify random splits.
    where
        Beginning of messages.

    Returns
    -------
    parts
        Ascending item numbers of every split that is not empty.
    notes
        Descriptions of the split, for the list of transforms.

    Raises
    ------
    UsageError
        If the fractions leave nothing for ``train``, or a column does not exist.
    DataError
        If a value of the column is missing or does not name a split, or a split is empty.
    """
    check_fractions(fractions)
    shares = ", ".join(f"{name} {part:g}" for name, part in fractions.items())
    rule = rule or Rule()
    if rule.columns and values is None:
        raise UsageError(f"{where} has no columns, so column {rule.columns[0]!r} cannot split it")
    if rule.split_column is not None:
        assert values is not None
        parts = by_column(values(rule.split_column), rule.split_column, where)
        note = f"split by column {rule.split_column}"
    elif rule.chronological is not None:
        order = rule.chronological
        keys = None if order == ROWS or values is None else values(order)
        parts = in_time(count, fractions, keys, rule.gap, f"{where}: column {order!r}")
        note = f"split in the order of {order}, {shares}" + (f", gap {rule.gap}" * bool(rule.gap))
    elif rule.group is not None:
        assert values is not None
        parts = by_group(values(rule.group), fractions, seed, f"{where}: column {rule.group!r}")
        note = f"random split by groups of {rule.group}, {shares}, seed {seed}"
    else:
        parts = split_items(count, fractions, labels=labels, seed=seed)
        note = f"random split, {shares}, seed {seed}" if fractions else ""
    if "train" not in parts:
        raise DataError(f"{where}: none of the {count} items is in train")
    return parts, [note] if note else []


def by_column(values: np.ndarray, column: str, where: str) -> dict[str, np.ndarray]:
    """Split items by a column with the names of the splits."""
    where = f"{where}: column {column!r}"
    _whole(values, where)
    kinds, inverse = np.unique(values.astype(str), return_inverse=True)
    names = []
    for kind in kinds.tolist():
        name = WORDS.get(kind.strip().lower())
        if name is None:
            at = int(np.flatnonzero(values.astype(str) == kind)[0])
            raise DataError(
                f"{where}: {kind!r} of item {at} is not a split; it may be {', '.join(WORDS)}"
            )
        names.append(name)
    of_item = np.asarray(names)[inverse]
    return {s: np.flatnonzero(of_item == s) for s in ("train", "valid", "test") if s in names}


def in_time(
    count: int, fractions: Mapping[str, float], keys: np.ndarray | None, gap: int, where: str
) -> dict[str, np.ndarray]:
    """Split items in order: train first, then each other split; equal keys stay together."""
    if keys is None:
        keys = np.arange(count)
    if keys.dtype.kind not in "biufM":
        raise DataError(f"{where} has text, but items are ordered by numbers or times; see --date")
    _whole(keys, where)
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    rest = 1 - sum(fractions.values())
    ends = np.floor(np.cumsum([rest, *fractions.values()]) * count + 0.5).astype(int)
    ends[-1] = count
    parts: dict[str, np.ndarray] = {}
    low, last = 0, "train"
    for name, end in zip(["train", *fractions], ends.tolist(), strict=True):
        while 0 < end < count and ordered[end] == ordered[end - 1]:
            end += 1
        if fractions.get(name, 1) > 0:
            begin = low + gap if low else low
            if begin >= end:
                raise DataError(
                    f"{where}: {name} would have no items: {last} ends with item {low} of {count}, "
                    f"the gap is {gap}, and the next split begins with item {end}"
                )
            parts[name] = np.sort(order[begin:end])
            last = name
        low = max(low, end)
    return parts


def by_group(
    values: np.ndarray, fractions: Mapping[str, float], seed: int, where: str
) -> dict[str, np.ndarray]:
    """Assign whole groups in random order, each to the split that is farthest from its quota."""
    _whole(values, where)
    keys = values.astype(str) if values.dtype.kind == "O" else values
    kinds, inverse, sizes = np.unique(keys, return_inverse=True, return_counts=True)
    wanted = {"train": 1 - sum(fractions.values()), **fractions}
    quota = {name: part * len(values) for name, part in wanted.items() if part > 0}
    if len(kinds) < len(quota):
        raise DataError(
            f"{where}: {len(kinds)} groups are too few for the {len(quota)} splits {list(quota)}"
        )
    held = dict.fromkeys(quota, 0)
    home = np.empty(len(kinds), dtype="U16")
    shuffled = numpy_generator(seed, Purpose.SPLIT).permutation(len(kinds)).tolist()
    for left, at in zip(range(len(kinds), 0, -1), shuffled, strict=True):
        empty = [name for name in quota if not held[name]]
        among = empty if len(empty) >= left else list(quota)  # no split stays empty
        name = max(among, key=lambda n: (quota[n] - held[n]) / quota[n])
        home[at] = name
        held[name] += int(sizes[at])
    of_item = home[inverse]
    return {name: np.flatnonzero(of_item == name) for name in quota}


def _whole(values: np.ndarray, where: str) -> None:
    if values.dtype.kind == "f":
        bad = ~np.isfinite(values)
    elif values.dtype.kind == "M":
        bad = np.isnat(values)
    elif values.dtype.kind == "O":
        bad = np.asarray([v is None for v in values.tolist()], bool)
    else:
        return
    if bad.any():
        at = int(np.flatnonzero(bad)[0])
        raise DataError(f"{where} has no value for item {at}; the split needs one for every item")
