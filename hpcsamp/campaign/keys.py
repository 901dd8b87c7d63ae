"""Keys of the configuration that campaign files may use."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from hpcsamp.config import RunConfig, changes, flatten, former, known_keys, section
from hpcsamp.spelling import hint


@cache
def fixed_keys() -> tuple[str, ...]:
    """Return all keys of the schema that hold a value."""
    sections = {n for n in RunConfig.model_fields if section(n)}
    return tuple(k for k in known_keys(RunConfig) if k not in sections)


@cache
def open_tables() -> tuple[str, ...]:
    """Return the tables that may have further keys, e.g. ``model.`` and ``loss.``."""
    sections = {n: section(n) for n in RunConfig.model_fields}
    return tuple(
        f"{n}." for n, s in sections.items() if s and s.model_config.get("extra") == "allow"
    )


def is_key(name: str) -> bool:
    """Whether a configuration may have this key."""
    return name in fixed_keys() or (
        any(name.startswith(t) and len(name) > len(t) for t in open_tables())
        and not former.is_former(name)
    )


def no_key(name: str, others: Sequence[str] = ()) -> str:
    """Return the message for a name that is not a key, with a suggestion.

    Parameters
    ----------
    others
        Names that are allowed besides the keys.
    """
    today = former.renamed(name, None)
    instead = f"; write {today}" if today else hint(name, [*fixed_keys(), *others])
    return f"{name!r} is not a key of the configuration{instead}"


@cache
def defaults() -> dict[str, Any]:
    """Return the default values of all keys that have one."""
    table = RunConfig.model_validate({"data": {"path": ""}, "model": {"name": "mlp"}})
    flat = flatten(table.model_dump(mode="json"))
    return {k: v for k, v in flat.items() if k not in ("data.path", "model.name")}


@cache
def is_neutral(name: str) -> bool:
    """Whether a key of the schema does not affect the results of a finished run.

    Two points that differ only in such keys are the same point, unless the key is an axis of the
    campaign.
    """
    return changes(name) == "nothing"
