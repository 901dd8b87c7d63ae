"""Sealed JSON, JSON lines and TOML.

The seal is a part of a SHA-256 over the content in a canonical form, so blanks and the order of
keys are of no matter. It is computed together with the ``owner`` of the file (the run, the
campaign): a file of another owner does not fit. A whole file also has a key ``format``. A file with
neither was written before files were sealed; one that has lost its seal alone is refused.

The seal of a line covers the seal of the line before: lines cannot be left out or change places.
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
"""Bytes that the last line of a file is looked for in."""


def checksum(table: Mapping[str, Any], owner: str = "") -> str:
    """Seal of a content, without its own key."""
    content = {k: v for k, v in table.items() if k != SEAL}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(f"{owner}\n{text}".encode()).hexdigest()[:16]


def owner_of(folder: Path) -> str:
    """Owner of the files of a submission: its place in the campaign."""
    return "/".join(folder.absolute().parts[-3:])


def to_json(table: Mapping[str, Any], owner: str = "") -> str:
    """Text of a sealed JSON file."""
    whole = {VERSION: FORMAT, **table}
    return json.dumps({**whole, SEAL: checksum(whole, owner)}, indent=1) + "\n"


def to_lines(tables: Iterable[Mapping[str, Any]], owner: str = "") -> str:
    """Text of sealed lines of JSON."""
    lines, before = [], owner
    for table in tables:
        before = checksum(table, before)
        lines.append(json.dumps({**table, SEAL: before}) + "\n")
    return "".join(lines)


def append_line(path: Path, table: Mapping[str, Any], owner: str = "") -> None:
    """Append a sealed line; one that a kill has cut off before is removed.

    Raises
    ------
    OSError
        If it cannot be written.
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
    """Text of a sealed TOML file: the seal is a comment at its end."""
    whole = {VERSION: FORMAT, **table}
    text = tomli_w.dumps(whole)
    return f"{text}\n{_COMMENT}{checksum(tomllib.loads(text), owner)}\n"


def read_json(
    path: Path, owner: str = "", *, unsealed: Callable[[Mapping[str, Any]], bool] | bool = True
) -> dict[str, Any]:
    """Content of a JSON file, without ``format`` and ``seal``.

    Parameters
    ----------
    owner
        That it was written for.
    unsealed
        Whether a file that was written before files were sealed will do; or how its content tells.

    Raises
    ------
    DataError
        If it cannot be read, is no JSON object, or is not what was written (unless edits are
        accepted, see :mod:`.edits`).
    """
    table = parse(_read(path), path)
    old = unsealed(table) if callable(unsealed) else unsealed
    _check(path, table, table.get(SEAL), owner, old)
    return {k: v for k, v in table.items() if k not in (SEAL, VERSION)}


def read_lines(
    path: Path, owner: str = "", *, unsealed: bool = True
) -> tuple[list[dict[str, Any]], bool]:
    """Content of a file of JSON lines; empty if there is none.

    Returns
    -------
    lines
        Without ``seal`` and ``format``.
    torn
        Whether a last line that a kill cut off was left out.

    Raises
    ------
    DataError
        As :func:`read_json`, with the number of the line.
    """
    if not path.exists():
        return [], False
    lines = _read(path).split("\n")
    found: list[dict[str, Any]] = []
    before = owner
    for number, line in enumerate(lines, start=1):
        where = f", line {number} of {len(lines)},"
        try:
            table = parse(line, path, where)
            _check(path, table, table.get(SEAL), before, unsealed, where)
        except DataError:
            if number < len(lines):
                raise
            return found, line != ""  # the last one: a whole line ends with a newline
        before = str(table.get(SEAL, ""))
        found.append({k: v for k, v in table.items() if k not in (SEAL, VERSION)})
    return found, False


def read_toml(path: Path, owner: str | None = "", *, unsealed: bool = True) -> dict[str, Any]:
    """Content of a TOML file, as :func:`read_json`.

    Parameters
    ----------
    owner
        None: that of the key ``run`` in the file itself.
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
    """A JSON object.

    Raises
    ------
    DataError
        Naming the file.
    """
    try:
        table = json.loads(text)
    except (ValueError, RecursionError) as e:
        raise DataError(f"{path}{where} is damaged: not valid JSON: {_reason(e)}") from None
    if not isinstance(table, dict):
        raise DataError(f"{path}{where} is damaged: it holds no JSON object")
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
