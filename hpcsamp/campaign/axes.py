"""Axes of a campaign: combinations of ``[product]``, ``[zip]`` and ``[[list]]``."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hpcsamp.campaign import space
from hpcsamp.campaign.keys import is_key, no_key
from hpcsamp.campaign.spec import CampaignFile
from hpcsamp.config import join_key, split_key, toml_value, unwritable, written
from hpcsamp.errors import UsageError
from hpcsamp.spelling import shown

RESOURCES = tuple(
    f"resources.{k}"
    for k in ("ranks", "nodes", "ranks_per_node", "cores", "gpus", "time", "memory")
)

Values = dict[str, Any]

MOST = 100_000
"""Largest number of combinations of a campaign, before exclusions."""

LONGEST = 100_000
"""Largest number of characters of a value in TOML: Linux limits the arguments of a command."""


def combinations(spec: CampaignFile) -> Iterator[Values]:
    """Yield all combinations, i.e. the product over all axes; the last axis varies fastest.

    Each key of ``[product]`` is an axis; all keys of ``[zip]`` together are one axis, and so is
    ``[[list]]``. A campaign without axes has one point.
    """
    for parts in itertools.product(*_axes(spec)):
        merged: Values = {}
        for part in parts:
            merged |= part
        yield merged


def of_search(spec: CampaignFile, folder: Path) -> Iterator[Values]:
    """Yield the combinations: those of the axes, or the trials of a search so far."""
    yield from combinations(spec) if spec.search is None else space.read_trials(folder)


def count(spec: CampaignFile) -> int:
    """Return the number of combinations."""
    return math.prod(len(axis) for axis in _axes(spec))


def check(spec: CampaignFile) -> None:
    """Check that each axis names a key, only once, with values that a configuration can hold.

    Raises
    ------
    UsageError
        If an axis is wrong (the message names it), or there are more than :data:`MOST`
        combinations.
    """
    seen: dict[str, str] = {}
    for table, keys in (
        ("product", list(read("product", spec.product))),
        ("zip", list(read("zip", spec.together))),
        ("list", list(dict.fromkeys(k for entry in spec.listed for k in read("list", entry)))),
    ):
        for key in keys:
            if key not in RESOURCES and not is_key(key):
                raise UsageError(f"[{table}] {no_key(key, RESOURCES)}")
            if key in seen:
                raise UsageError(f"{key!r} is an axis of both [{seen[key]}] and [{table}]")
            seen[key] = table
    if spec.search is not None:
        if seen:
            raise UsageError(f"[search] cannot be combined with axes: remove {next(iter(seen))}")
        for key, domain in spec.search.space.items():
            if not is_key(key):
                raise UsageError(f"[search.space] {no_key(key)}")
            space.check("the campaign file", key, domain)
            seen[key] = "search.space"
    derived = read("derived", spec.derived)
    for key in derived.keys() & seen.keys():
        raise UsageError(f"{key!r} is an axis in [{seen[key]}] and also in [derived]")
    for inner in (*seen, *derived):
        parts = split_key(inner)
        for outer in (join_key(parts[:n]) for n in range(1, len(parts))):
            if outer in seen or outer in derived:
                raise UsageError(
                    f"{outer} is an axis or a derived value, and {inner} is a part of it: "
                    f"remove one of the two"
                )
    number = count(spec)
    if number > MOST:
        raise UsageError(f"there are {number:.6g} combinations, but at most {MOST} are allowed")


def read(table: str, content: dict[str, Any]) -> dict[str, Any]:
    """Return a table of the campaign file by dotted keys.

    Raises
    ------
    UsageError
        If a name is not a key, or is defined twice.
    """
    try:
        return written(content)
    except ValueError as e:
        raise UsageError(f"[{table}] {e}") from None


def _axes(spec: CampaignFile) -> list[list[Values]]:
    axes = []
    for key, values in read("product", spec.product).items():
        axes.append([{key: v} for v in _listed("product", key, values)])
    together = {k: _listed("zip", k, v) for k, v in read("zip", spec.together).items()}
    lengths = {k: len(v) for k, v in together.items()}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{k} {n}" for k, n in lengths.items())
        raise UsageError(f"[zip] lists must have the same length, but have {listed}")
    if together:
        names = list(together)
        axes.append(
            [dict(zip(names, row, strict=True)) for row in zip(*together.values(), strict=True)]
        )
    if spec.listed:
        entries = [read("list", entry) for entry in spec.listed]
        for entry in entries:
            for key, value in entry.items():
                _check_value("list", key, value)
        axes.append(entries)
    return axes


def _listed(table: str, key: str, values: Any) -> list[Any]:
    if not isinstance(values, list):
        raise UsageError(f"[{table}] {key} = {shown(values)}: expected a list of values")
    if not values:
        raise UsageError(f"[{table}] {key} = []: an axis needs at least one value")
    for value in values:
        _check_value(table, key, value)
    return values


def _check_value(table: str, key: str, value: Any) -> None:
    reason = unwritable(value)
    if not reason and len(toml_value(value)) > LONGEST:
        reason = f"a value of more than {LONGEST} characters does not fit on a command line"
    if reason:
        raise UsageError(f"[{table}] {key} = {shown(value)}: {reason}")
