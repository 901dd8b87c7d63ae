"""Convert between nested tables and dotted keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hpcsamp.config.toml import join_key, split_key


def flatten(table: Mapping[str, Any]) -> dict[str, Any]:
    """Flatten nested tables to ``{"optimizer.lr": ...}``; an empty table counts as a value.

    Names that need quotes in TOML are quoted in the keys, so every value has a key of its own.
    """
    return {join_key(path): value for path, value in _leaves(table, ())}


def written(table: Mapping[str, Any]) -> dict[str, Any]:
    """Flatten tables whose names may be dotted keys themselves, e.g. ``"optimizer.lr" = [1e-3]``.

    Raises
    ------
    ValueError
        If a name is not a valid key, a key is defined twice, or one key is a table that contains
        another key.
    """
    flat: dict[str, Any] = {}
    for path, value in _leaves(table, ()):
        parts = tuple(part for name in path for part in split_key(name))
        key = join_key(parts)
        if key in flat:
            raise ValueError(f"{key} is defined twice")
        flat[key] = value
    for key in flat:
        parts = split_key(key)
        for outer in (join_key(parts[:end]) for end in range(1, len(parts))):
            if outer in flat:
                raise ValueError(f"{outer} is a value, so {key} cannot be set within it")
    return flat


def put(table: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key in nested tables; inner tables are copied, as they may be shared.

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
    leaves: list[tuple[tuple[str, ...], Any]] = []
    for name, value in table.items():
        inside = (*path, str(name))
        if isinstance(value, Mapping) and value:
            leaves += _leaves(value, inside)
        else:
            leaves.append((inside, value))
    return leaves
