"""Read TOML files, and write keys and values as single lines of TOML without loss."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from hpcsamp.errors import UsageError

LARGEST = 16 * 2**20
"""Largest size of a TOML file, in bytes."""

DEEPEST = 32
"""Largest depth of nested tables and lists."""

_PART = r"""(?:[A-Za-z0-9_-]+|"(?:[^"\\\n]|\\.)*"|'[^'\n]*')"""
_KEY = re.compile(rf"[ \t]*{_PART}([ \t]*\.[ \t]*{_PART})*[ \t]*")


def exists(path: Path) -> bool:
    """Whether a file or folder exists; False for a path that is not a valid one."""
    try:
        return path.exists()
    except (OSError, ValueError):  # a path that is too long or not permitted, or a NUL character
        return False


def read_toml(path: Path, what: str) -> dict[str, Any]:
    """Read a TOML file.

    Parameters
    ----------
    path
        The file.
    what
        Description of the file for messages, e.g. ``the campaign file``.

    Raises
    ------
    UsageError
        If the file cannot be read, is too large, or is not valid UTF-8 or TOML.
    """
    try:
        if path.exists() and not path.is_file():
            raise UsageError(f"cannot read {what} {path}: it is not a file")
        with path.open("rb") as f:
            content = f.read(LARGEST + 1)
    except OSError as e:
        raise UsageError(f"cannot read {what} {path}: {e.strerror}") from None
    except ValueError as e:  # a NUL character in the name
        raise UsageError(f"cannot read {what} {path}: {e}") from None
    if len(content) > LARGEST:
        raise UsageError(f"{path}: {what} is larger than {LARGEST >> 20} MiB")
    try:
        text = content.decode()
    except UnicodeDecodeError as e:
        raise UsageError(
            f"{path} is not valid TOML: byte {e.start} ({content[e.start]:#04x}) is not UTF-8"
        ) from None
    return parse_toml(text, str(path))


def parse_toml(text: str, name: str) -> dict[str, Any]:
    """Parse the text of a TOML file called ``name`` in messages.

    Raises
    ------
    UsageError
        If it is not valid TOML, or is nested deeper than :data:`DEEPEST`.
    """
    try:
        table = tomllib.loads(text)
    except ValueError as e:  # includes TOMLDecodeError, and numbers with too many digits
        raise UsageError(f"{name} is not valid TOML: {e}") from None
    except RecursionError:
        table = None
    level: list[Any] = [table]
    for _ in range(DEEPEST + 1):
        level = [inner for value in level if isinstance(value, dict | list) for inner in (
            value.values() if isinstance(value, dict) else value
        )]  # fmt: skip
    if level or table is None:
        raise UsageError(f"{name}: tables and lists are nested deeper than {DEEPEST}")
    return table


@lru_cache(10_000)
def split_key(text: str) -> tuple[str, ...]:
    """Split a dotted key into its parts, e.g. ``model.hidden`` or ``model."a.b"``.

    Raises
    ------
    ValueError
        If the text is not a valid TOML key.
    """
    if not _KEY.fullmatch(text):
        raise ValueError(f"{text!r} is not a key")
    place: Any = tomllib.loads(f"{text} = 0")
    parts = []
    while isinstance(place, dict):
        [(part, place)] = place.items()
        parts.append(part)
    return tuple(parts)


def join_key(parts: Sequence[str]) -> str:
    """Join parts into a dotted key in ASCII, with quotes where TOML requires them."""
    return ".".join(map(_key_part, parts))


def split_pair(text: str) -> tuple[str, str] | None:
    """Split ``KEY=VALUE``, where a quoted key may contain ``=``; None for any other text."""
    key = _KEY.match(text)
    if key is None or text[key.end() : key.end() + 1] != "=":
        return None
    return key[0], text[key.end() + 1 :]


def toml_value(value: Any) -> str:
    """Write a value as TOML on one line of ASCII, which no shell, locale or terminal alters.

    Raises
    ------
    TypeError
        For a value that TOML cannot express, such as None.
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(toml_value, value)) + "]"
    if isinstance(value, Mapping):
        inner = ", ".join(f"{join_key([str(k)])} = {toml_value(v)}" for k, v in value.items())
        return "{" + inner + "}"
    raise TypeError(f"{value!r} cannot be written in TOML")


def unwritable(value: Any) -> str:
    """Explain why a value cannot be written in TOML or used by a run; empty if it can."""
    if isinstance(value, bool | float):
        return ""
    if isinstance(value, int):
        return "" if -(2**63) <= value < 2**63 else "integers must fit in 64 bits"
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return "contains bytes that are not UTF-8"
        return "contains a NUL character" if "\0" in value else ""
    if isinstance(value, Mapping):
        return next(filter(None, (unwritable(p) for pair in value.items() for p in pair)), "")
    if isinstance(value, list | tuple):
        return next(filter(None, map(unwritable, value)), "")
    if value is None:
        return "TOML has no null value; leave the key out"
    return f"no key takes a {type(value).__name__}; write it in quotes"


@lru_cache(10_000)
def _key_part(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _string(name)


def _string(text: str) -> str:
    """Return a TOML basic string: as in JSON, but with ``\\U`` for characters beyond 16 bits."""
    return '"' + "".join(
        json.dumps(c)[1:-1] if ord(c) < 0x10000 else f"\\U{ord(c):08x}" for c in text
    ) + '"'  # fmt: skip
