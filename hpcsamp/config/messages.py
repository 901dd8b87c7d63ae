"""What to say about a wrong key or value."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from pydantic import BaseModel, ValidationError

from hpcsamp.config.schema import RunConfig


def known_keys(section: type[BaseModel], prefix: str = "") -> list[str]:
    """Dotted names of every key of the schema."""
    names = []
    for name, field in section.model_fields.items():
        names.append(prefix + name)
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            names += known_keys(kind, f"{prefix}{name}.")
    return names


def suggest(name: str, known: Iterable[str]) -> str:
    """``; did you mean 'lr'?`` for the nearest known name, or nothing."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if not near:  # the right key in the wrong table
        last = name.rsplit(".", 1)[-1]
        ends = {k.rsplit(".", 1)[-1]: k for k in known}
        near = [ends[m] for m in difflib.get_close_matches(last, ends, n=1, cutoff=0.75)]
    return f"; did you mean {near[0]!r}?" if near else ""


def explain(error: ValidationError) -> str:
    """All faults of a configuration in one line, each with its key and a mend."""
    lines = []
    for fault in error.errors():
        name = ".".join(str(p) for p in fault["loc"] if p not in ("int", "float", "str"))
        if fault["type"] == "extra_forbidden":
            line = f"unknown key {name!r}{suggest(name, known_keys(RunConfig))}"
        elif fault["type"] == "missing":
            line = f"{name} is missing"
        else:
            line = f"{name} = {fault['input']!r}: {fault['msg'][0].lower()}{fault['msg'][1:]}"
        if line not in lines:
            lines.append(line)
    return "; ".join(lines)
