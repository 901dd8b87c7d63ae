"""Nested tables and their dotted keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hpcsamp.config.toml import join_key, split_key


def flatten(table: Mapping[str, Any]) -> dict[str, Any]:
    """Nested tables as ``{"optimizer.lr": ...}``; an empty table is a value.

    Names that TOML quotes are quoted in the keys, so that no two places have one key.
    """
    return {join_key(path): value for path, value in _leaves(table, ())}


def written(table: Mapping[str, Any]) -> dict[str, Any]:
    """The same of tables in which names may be dotted keys, as in ``"optimizer.lr" = [1e-3]``.

    Raises
    ------
    ValueError
        For a name that is not a key, one that is written twice, and a key within another's value.
    """
    found: dict[str, Any] = {}
    for path, value in _leaves(table, ()):
        parts = tuple(part for name in path for part in split_key(name))
        key = join_key(parts)
        if key in found:
            raise ValueError(f"{key} is written twice")
        found[key] = value
    for key in found:
        parts = split_key(key)
        for outer in (join_key(parts[:end]) for end in range(1, len(parts))):
            if outer in found:
                raise ValueError(f"{outer} is a value, and {key} lies within it")
    return found


def put(table: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key in nested tables, copying the tables on the way: others may share them.

    Raises
    ------
    ValueError
        If a part of the key is a value, not a table.
    """
    *path, last = split_key(key)
    place = table
    for part in path:
        inner = place.get(part, {})
        if not isinstance(inner, Mapping):
            raise ValueError(f"{part!r} is a value, not a table")
        place[part] = dict(inner)
        place = place[part]
    place[last] = value


def _leaves(table: Mapping[str, Any], path: Sequence[str]) -> list[tuple[tuple[str, ...], Any]]:
    found: list[tuple[tuple[str, ...], Any]] = []
    for name, value in table.items():
        inside = (*path, str(name))
        if isinstance(value, Mapping) and value:
            found += _leaves(value, inside)
        else:
            found.append((inside, value))
    return found
