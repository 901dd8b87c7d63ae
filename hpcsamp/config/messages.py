"""Error messages for unknown configuration keys and invalid values."""

from __future__ import annotations

from typing import get_args

from pydantic import BaseModel, ValidationError

from hpcsamp.config.schema import RunConfig
from hpcsamp.spelling import hint, shown


def known_keys(section: type[BaseModel], prefix: str = "") -> list[str]:
    """Return the dotted names of all keys of the schema."""
    names = []
    for name, field in section.model_fields.items():
        names.append(prefix + name)
        for kind in (field.annotation, *get_args(field.annotation)):  # a table, or one or None
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                names += known_keys(kind, f"{prefix}{name}.")
    return names


def explain(error: ValidationError) -> str:
    """Describe all errors of a configuration in one line, each with its key and how to fix it."""
    lines = []
    for fault in error.errors():
        name = ".".join(str(p) for p in fault["loc"] if p not in ("int", "float", "str"))
        if fault["type"] == "extra_forbidden":
            line = f"unknown key {name!r}{hint(name, known_keys(RunConfig))}"
        elif fault["type"] == "missing":
            line = f"{name} is missing"
        else:
            line = f"{name} = {shown(fault['input'])}: {fault['msg'][0].lower()}{fault['msg'][1:]}"
        if line not in lines:
            lines.append(line)
    return "; ".join(lines)
