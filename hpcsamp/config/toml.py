"""TOML as it is read from files, and as single lines that carry a key and its value losslessly."""

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
"""Bytes of a TOML file that is read."""

DEEPEST = 32
"""Tables and lists within each other."""

_PART = r"""(?:[A-Za-z0-9_-]+|"(?:[^"\\\n]|\\.)*"|'[^'\n]*')"""
_KEY = re.compile(rf"[ \t]*{_PART}([ \t]*\.[ \t]*{_PART})*[ \t]*")


def exists(path: Path) -> bool:
    """Whether there is such a file or folder; there is none of a name that cannot be one."""
    try:
        return path.exists()
    except (OSError, ValueError):  # too long, no permission; a NUL
        return False


def read_toml(path: Path, what: str) -> dict[str, Any]:
    """Read a TOML file.

    Parameters
    ----------
    path
        The file.
    what
        What it is called in messages, e.g. ``the campaign file``.

    Raises
    ------
    UsageError
        If it cannot be read, is not UTF-8 or not TOML; one line.
    """
    try:
        if path.exists() and not path.is_file():
            raise UsageError(f"cannot read {what} {path}: it is not a file")
        with path.open("rb") as f:
            content = f.read(LARGEST + 1)
    except OSError as e:
        raise UsageError(f"cannot read {what} {path}: {e.strerror}") from None
    except ValueError as e:  # a NUL in the name
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
    """A table from its text.

    Raises
    ------
    UsageError
        If it is not TOML, or nested deeper than :data:`DEEPEST`.
    """
    try:
        table = tomllib.loads(text)
    except ValueError as e:  # TOMLDecodeError is one; so is a number of too many digits
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
    """Parts of a dotted key, e.g. ``model.hidden`` or ``model."a.b"``.

    Raises
    ------
    ValueError
        If TOML has no such key.
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
    """The dotted key with these parts, quoted where TOML wants it; ASCII."""
    return ".".join(map(_key_part, parts))


def split_pair(text: str) -> tuple[str, str] | None:
    """Key and value of ``KEY=VALUE``, where the key may hold ``=`` in quotes; None for another."""
    key = _KEY.match(text)
    if key is None or text[key.end() : key.end() + 1] != "=":
        return None
    return key[0], text[key.end() + 1 :]


def toml_value(value: Any) -> str:
    """A value as it stands in TOML, on one line of ASCII: no shell, locale or terminal alters it.

    Raises
    ------
    TypeError
        For a value that TOML has not, such as None.
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
    """Why TOML cannot hold a value, or a run cannot use it; empty if it can."""
    if isinstance(value, bool | float):
        return ""
    if isinstance(value, int):
        return "" if -(2**63) <= value < 2**63 else "integers have 64 bits"
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return "holds bytes that are not UTF-8"
        return "holds a NUL character" if "\0" in value else ""
    if isinstance(value, Mapping):
        return next(filter(None, (unwritable(p) for pair in value.items() for p in pair)), "")
    if isinstance(value, list | tuple):
        return next(filter(None, map(unwritable, value)), "")
    if value is None:
        return "TOML has no such value; leave the key out"
    return f"a {type(value).__name__}, which no key takes; write it in quotes"


@lru_cache(10_000)
def _key_part(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _string(name)


def _string(text: str) -> str:
    """A basic string: JSON's, but for characters beyond 16 bits, which TOML writes as ``\\U``."""
    return '"' + "".join(
        json.dumps(c)[1:-1] if ord(c) < 0x10000 else f"\\U{ord(c):08x}" for c in text
    ) + '"'  # fmt: skip
