"""Read and write sealed JSON, JSON lines and TOML.

The seal is a part of a SHA-256 over the content in a canonical form, so white space and the order
of keys do not matter. It covers the ``owner`` of the file (the run, the campaign), so that a file
of another owner is refused. A sealed file also has a key ``format``. A file with neither key was
written before files were sealed; a file that has ``format`` but no seal is refused.

The seal of a line covers the seal of the previous line, so lines cannot be removed or reordered.
"""

from __future__ import annotations

import hashlib
import json
import os
import tomllib
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import tomli_w

from hpcsamp.errors import DataError
from hpcsamp.sealing import edits

FORMAT = 2
SEAL, VERSION = "seal", "format"
_COMMENT = "# seal: "
_TAIL = 1 << 20
"""Number of bytes at the end of a file that are searched for its last line."""


def checksum(table: Mapping[str, Any], owner: str = "") -> str:
    """Compute the seal of a table, ignoring a seal that it already has."""
    content = {k: v for k, v in table.items() if k != SEAL}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(f"{owner}\n{text}".encode()).hexdigest()[:16]


def owner_of(folder: Path) -> str:
    """Owner of the files of a submission: the last parts of its path within the campaign."""
    return "/".join(folder.absolute().parts[-3:])


def to_json(table: Mapping[str, Any], owner: str = "") -> str:
    """Write a table as the text of a sealed JSON file."""
    whole = {VERSION: FORMAT, **table}
    return json.dumps({**whole, SEAL: checksum(whole, owner)}, indent=1) + "\n"


def to_lines(tables: Iterable[Mapping[str, Any]], owner: str = "") -> str:
    """Write tables as sealed lines of JSON."""
    lines, before = [], owner
    for table in tables:
        before = checksum(table, before)
        lines.append(json.dumps({**table, SEAL: before}) + "\n")
    return "".join(lines)


def append_line(path: Path, table: Mapping[str, Any], owner: str = "") -> None:
    """Append a sealed line; an incomplete last line, left by a killed process, is removed.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    with path.open("a+b") as f:
        end = f.seek(0, os.SEEK_END)
        f.seek(max(0, end - _TAIL))
        *whole, cut = f.read().split(b"\n")
        if cut:
            f.truncate(end - len(cut))
        before = owner
        if whole:
            with suppress(ValueError, AttributeError):
                before = json.loads(whole[-1]).get(SEAL, "")
        f.write(to_lines([table], before).encode())


def to_toml(table: Mapping[str, Any], owner: str = "") -> str:
    """Write a table as the text of a sealed TOML file; the seal is a comment at its end."""
    whole = {VERSION: FORMAT, **table}
    text = tomli_w.dumps(whole)
    return f"{text}\n{_COMMENT}{checksum(tomllib.loads(text), owner)}\n"


def read_json(
    path: Path, owner: str = "", *, unsealed: Callable[[Mapping[str, Any]], bool] | bool = True
) -> dict[str, Any]:
    """Read a sealed JSON file; the result does not contain ``format`` and ``seal``.

    Parameters
    ----------
    owner
        Owner for which the file was written.
    unsealed
        Whether a file that was written before files were sealed is accepted, or a function that
        decides this from the content.

    Raises
    ------
    DataError
        If the file cannot be read, does not hold a JSON object, or has changed since it was written
        (unless edits are accepted, see :mod:`.edits`).
    """
    table = parse(_read(path), path)
    old = unsealed(table) if callable(unsealed) else unsealed
    _check(path, table, table.get(SEAL), owner, old)
    return {k: v for k, v in table.items() if k not in (SEAL, VERSION)}


def read_lines(
    path: Path, owner: str = "", *, unsealed: bool = True
) -> tuple[list[dict[str, Any]], bool]:
    """Read a file of sealed JSON lines; the result is empty if the file does not exist.

    Returns
    -------
    lines
        The tables, without ``seal`` and ``format``.
    torn
        Whether the last line is incomplete, as after a kill, and was skipped.

    Raises
    ------
    DataError
        As for :func:`read_json`; the message contains the number of the line.
    """
    if not path.exists():
        return [], False
    lines = _read(path).split("\n")
    tables: list[dict[str, Any]] = []
    before = owner
    for number, line in enumerate(lines, start=1):
        where = f", line {number} of {len(lines)},"
        try:
            table = parse(line, path, where)
            _check(path, table, table.get(SEAL), before, unsealed, where)
        except DataError:
            if number < len(lines):
                raise
            return tables, line != ""  # the last line: a complete line ends with a newline
        before = str(table.get(SEAL, ""))
        tables.append({k: v for k, v in table.items() if k not in (SEAL, VERSION)})
    return tables, False


def read_toml(path: Path, owner: str | None = "", *, unsealed: bool = True) -> dict[str, Any]:
    """Read a sealed TOML file; parameters and errors as for :func:`read_json`.

    Parameters
    ----------
    owner
        Owner of the file; None for the one in its own key ``run``.
    """
    text = _read(path)
    try:
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as e:
        raise DataError(f"{path} is not valid TOML: {_reason(e)}") from None
    last = (text.rstrip().splitlines() or [""])[-1]
    seal = last.removeprefix(_COMMENT) if last.startswith(_COMMENT) else None
    _check(path, table, seal, str(table.get("run", "")) if owner is None else owner, unsealed)
    return {k: v for k, v in table.items() if k != VERSION}


def parse(text: str, path: Path, where: str = "") -> dict[str, Any]:
    """Parse a JSON object.

    Raises
    ------
    DataError
        If the text is not a JSON object; the message names the file.
    """
    try:
        table = json.loads(text)
    except (ValueError, RecursionError) as e:
        raise DataError(f"{path}{where} is damaged: not valid JSON: {_reason(e)}") from None
    if not isinstance(table, dict):
        raise DataError(f"{path}{where} is damaged: it does not hold a JSON object")
    return table


def _check(
    path: Path,
    table: Mapping[str, Any],
    seal: Any,
    owner: str,
    unsealed: bool,
    where: str = "",
) -> None:
    if seal is None and VERSION not in table and unsealed:
        return
    try:
        fits = seal == checksum(table, owner)
    except (TypeError, ValueError, RecursionError):  # dates of TOML; nesting
        fits = False
    if not fits:
        edits.found(path, where)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as e:
        raise DataError(f"cannot read {path}: {e.strerror}") from None
    except UnicodeDecodeError as e:
        raise DataError(f"{path} is damaged: it is not UTF-8 text ({e.reason})") from None


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return str(error).split("\n")[0]
