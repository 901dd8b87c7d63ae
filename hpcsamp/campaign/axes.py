"""Axes: ``[product]``, ``[zip]`` and ``[[list]]`` make the combinations of a campaign."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

from hpcsamp.campaign.keys import fixed_keys, flatten, is_key, open_tables
from hpcsamp.campaign.spec import CampaignFile
from hpcsamp.config import suggest
from hpcsamp.errors import UsageError

RESOURCES = tuple(
    f"resources.{k}"
    for k in ("ranks", "nodes", "ranks_per_node", "cores", "gpus", "time", "memory")
)

Values = dict[str, Any]


def combinations(spec: CampaignFile) -> Iterator[Values]:
    """Every combination, the last axis fastest: the product over all axes.

    A key of ``[product]`` is an axis; all of ``[zip]`` together are one, and so is ``[[list]]``.
    A campaign without axes has one point.
    """
    for parts in itertools.product(*_axes(spec)):
        merged: Values = {}
        for part in parts:
            merged |= part
        yield merged


def count(spec: CampaignFile) -> int:
    """How many combinations there are."""
    return math.prod(len(axis) for axis in _axes(spec))


def check(spec: CampaignFile) -> None:
    """Every axis names a key, once, and has values.

    Raises
    ------
    UsageError
        Naming the axis, with a suggestion.
    """
    seen: dict[str, str] = {}
    for table, keys in (
        ("product", list(flatten(spec.product))),
        ("zip", list(flatten(spec.together))),
        ("list", list(dict.fromkeys(k for entry in spec.listed for k in flatten(entry)))),
    ):
        for key in keys:
            if key not in RESOURCES and not is_key(key):
                known = [*fixed_keys(), *RESOURCES]
                raise UsageError(
                    f"[{table}] {key!r} is no key of the configuration{suggest(key, known)}"
                )
            if key in seen:
                raise UsageError(f"{key!r} is an axis of both [{seen[key]}] and [{table}]")
            seen[key] = table
    for key in set(flatten(spec.derived)) & seen.keys():
        raise UsageError(f"{key!r} is both an axis of [{seen[key]}] and derived")


def free_key_note(key: str) -> str | None:
    """For a key that is passed on unchecked: what takes it, or None."""
    if key in fixed_keys() or key in RESOURCES:
        return None
    table = next((t for t in open_tables() if key.startswith(t)), None)
    return f"{key} is passed on to what [{table[:-1]}] names" if table else None


def _axes(spec: CampaignFile) -> list[list[Values]]:
    axes = []
    for key, values in flatten(spec.product).items():
        axes.append([{key: v} for v in _listed("product", key, values)])
    together = {k: _listed("zip", k, v) for k, v in flatten(spec.together).items()}
    lengths = {k: len(v) for k, v in together.items()}
    if len(set(lengths.values())) > 1:
        said = ", ".join(f"{k} {n}" for k, n in lengths.items())
        raise UsageError(f"[zip] lists must be of one length, these are not: {said}")
    if together:
        names = list(together)
        axes.append(
            [dict(zip(names, row, strict=True)) for row in zip(*together.values(), strict=True)]
        )
    if spec.listed:
        axes.append([flatten(entry) for entry in spec.listed])
    return axes


def _listed(table: str, key: str, values: Any) -> list[Any]:
    if not isinstance(values, list):
        raise UsageError(f"[{table}] {key} = {values!r}: expected a list of values")
    if not values:
        raise UsageError(f"[{table}] {key} = []: an axis needs at least one value")
    return values
