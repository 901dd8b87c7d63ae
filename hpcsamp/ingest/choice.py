"""Which columns of a table are inputs and which are targets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from hpcsamp.errors import DataError, UsageError

SHOWN = 20
"""Column names that a message lists at most."""


def choose(
    path: Path,
    names: Sequence[str],
    targets: Sequence[str],
    features: Sequence[str] = (),
    without: Sequence[str] = (),
) -> list[str]:
    """The features: all columns that are no targets, unless some are named.

    Parameters
    ----------
    path
        Of the table, for messages.
    names
        Its columns.
    targets, features
        Those that were asked for.
    without
        Columns that are features only if they are named.

    Raises
    ------
    UsageError
        If a column is not there or named twice, or none is left for a side.
    DataError
        If chosen columns have no name, or the same one.
    """
    check_named(path, names, [*targets, *features, *without])
    count = Counter(names)
    if not targets:
        raise UsageError(f"--target is needed: one or more of {listed(names)}")
    wanted = set(targets)
    chosen = list(features) or [n for n in names if n not in wanted and n not in set(without)]
    if not chosen:
        raise UsageError(f"{path}: all of its columns are targets, none is left for x")
    for name, times in Counter([*chosen, *targets]).items():
        if not name:
            raise DataError(
                f"{path}: column {names.index('') + 1} has no name; name it, or the others by "
                "--feature"
            )
        if count[name] > 1:
            at = [i + 1 for i, other in enumerate(names) if other == name]
            raise DataError(
                f"{path}: columns {', '.join(map(str, at[:SHOWN]))} are all called {name!r}; "
                "names must differ"
            )
        if times > 1:
            where = "both as --target and as --feature" if name in wanted else "more than once"
            where = "more than once" if name not in set(features) else where
            raise UsageError(f"column {name!r} is named {where}")
        if not name.isprintable():
            raise DataError(f"{path}: the name {name!r} holds signs that cannot be printed")
    return chosen


def check_named(path: Path, names: Sequence[str], asked: Sequence[str]) -> None:
    """Refuse columns that a table does not have.

    Raises
    ------
    UsageError
        Naming the first one.
    """
    known = set(names)
    for name in asked:
        if name not in known:
            raise UsageError(f"{path} has no column {name!r}, only {listed(names)}")


def short(text: str) -> str:
    """At most 60 signs of a text."""
    return text if len(text) <= 60 else text[:57] + "..."


def listed(names: Sequence[str]) -> str:
    """Names for a message."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return short(", ".join(names[:SHOWN])) + more if more else ", ".join(names)
