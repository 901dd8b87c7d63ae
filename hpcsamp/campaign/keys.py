"""Keys of the configuration as campaign files name them: which there are."""

from __future__ import annotations

from functools import cache
from typing import Any

from pydantic import BaseModel

from hpcsamp.config import RunConfig, changes, flatten, known_keys


@cache
def fixed_keys() -> tuple[str, ...]:
    """Every key of the schema that holds a value."""
    sections = {n for n, f in RunConfig.model_fields.items() if _is_section(f.annotation)}
    return tuple(k for k in known_keys(RunConfig) if k not in sections)


@cache
def open_tables() -> tuple[str, ...]:
    """Tables whose further keys are passed on, e.g. ``model.`` and ``loss.arguments.``."""
    tables = []
    for name, field in RunConfig.model_fields.items():
        section = field.annotation
        if not _is_section(section):
            continue
        assert isinstance(section, type)
        if section.model_config.get("extra") == "allow":
            tables.append(f"{name}.")
        tables += [
            f"{name}.{n}."
            for n, f in section.model_fields.items()
            if str(f.annotation).startswith("dict")
        ]
    return tuple(tables)


def is_key(name: str) -> bool:
    """Whether a configuration may have this key."""
    return name in fixed_keys() or any(
        name.startswith(t) and len(name) > len(t) for t in open_tables()
    )


@cache
def defaults() -> dict[str, Any]:
    """Default of every key that has one."""
    table = RunConfig.model_validate({"data": {"path": ""}, "model": {"name": ""}})
    flat = flatten(table.model_dump(mode="json"))
    return {k: v for k, v in flat.items() if k not in ("data.path", "model.name")}


@cache
def is_neutral(name: str) -> bool:
    """Whether a key leaves the numbers of a finished run as they are (law 1): two points that
    differ in nothing else are the same point, unless it is an axis of the campaign.
    """
    return changes(name) == "nothing"


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)
