"""Choose which columns of a table are features and which are targets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from hpcsamp.errors import DataError, UsageError
from hpcsamp.spelling import joined

SHOWN = 20
"""Largest number of column names that a message lists."""


def choose(
    path: Path,
    names: Sequence[str],
    targets: Sequence[str],
    features: Sequence[str] = (),
    without: Sequence[str] = (),
) -> list[str]:
    """Return the features: the named columns or, by default, all columns that are not targets.

    Parameters
    ----------
    path
        File of the table, for messages.
    names
        Columns of the table.
    targets, features
        Columns that the user named.
    without
        Columns that are features only if they are named.

    Raises
    ------
    UsageError
        If a column does not exist or is named twice, or no target or feature is left.
    DataError
        If a chosen column has no name, or two columns have the same name.
    """
    check_named(path, names, [*targets, *features, *without])
    count = Counter(names)
    if not targets:
        raise UsageError(f"give --target: one or more of the columns {listed(names)}")
    wanted = set(targets)
    chosen = list(features) or [n for n in names if n not in wanted and n not in set(without)]
    if not chosen:
        raise UsageError(f"{path}: all columns are targets, so none is left for x")
    for name, times in Counter([*chosen, *targets]).items():
        if not name:
            raise DataError(
                f"{path}: column {names.index('') + 1} has no name; name it in the file, or choose "
                "the other columns with --feature"
            )
        if count[name] > 1:
            at = [i + 1 for i, other in enumerate(names) if other == name]
            raise DataError(
                f"{path}: columns {', '.join(map(str, at[:SHOWN]))} all have the name {name!r}; "
                "names must differ"
            )
        if times > 1:
            where = "both as --target and as --feature" if name in wanted else "more than once"
            where = "more than once" if name not in set(features) else where
            raise UsageError(f"column {name!r} is named {where}")
        if not name.isprintable():
            raise DataError(f"{path}: the name {name!r} has characters that cannot be printed")
    return chosen


def check_named(path: Path, names: Sequence[str], asked: Sequence[str]) -> None:
    """Refuse columns that a table does not have.

    Raises
    ------
    UsageError
        If a column does not exist; the message names the first one.
    """
    known = set(names)
    for name in asked:
        if name not in known:
            raise UsageError(f"{path} has no column {name!r}, only {listed(names)}")


def short(text: str) -> str:
    """Shorten a text to at most 60 characters."""
    return text if len(text) <= 60 else text[:57] + "..."


def listed(names: Sequence[str]) -> str:
    """Join names for a message; long lists are shortened."""
    if len(names) <= SHOWN:
        return joined(names)
    return f"{short(joined(names[:SHOWN]))} and {len(names) - SHOWN} more"
