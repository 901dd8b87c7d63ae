"""Index of the results of finished points, so that they are not read again while they are the same.

``.results.json`` in the folder of a campaign holds the row of each point and the sizes and times of
the files that it was read from. An entry is used only if all of these are still the same; the time
of the last change of a file is among them, which programs cannot set. The index may be removed at
any time. It is not used while edited files are accepted, because each of them must be recorded.

Its first line is the table of contents: the columns, and for each point the position, length and
checksum of its entry, a line with the values. Only entries of the points asked for are parsed. A
new index replaces the file as a whole, so that a reader sees the old or the new one.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from hpcsamp.files import whole
from hpcsamp.sealing import edits

FILE = ".results.json"
"""Name of the index in the folder of a campaign."""

VERSION = 2
"""Version of the rows; it changes with what :func:`.collect.collect` makes of the files."""

Row = dict[str, Any]
Place = tuple[int, int, int]  # position after the first line, length in bytes, CRC-32


class Index:
    """Rows of results by the names of points.

    Parameters
    ----------
    folder
        Folder of the campaign.
    files
        Files in the folder of a point that its row is read from; some of them need not exist.
    columns
        Description of anything else that determines the columns of a row.
    """

    def __init__(self, folder: Path, files: Sequence[str], columns: str = "") -> None:
        self.file = folder / FILE
        self.points = f"{folder}/points"
        self.files = files
        self.kind = [VERSION, list(files), columns]
        self.used = not edits.accepted()
        self.columns: list[list[str]] = []  # those of each kind of row, in their order
        self.places: dict[str, Place] = {}
        self.entries = b""
        self.new: dict[str, bytes] = {}
        if self.used:
            self._read()

    def row(self, name: str, first: Row, read: Callable[[], Row]) -> Row:
        """Return the row of a point, from the index or else from its files.

        Parameters
        ----------
        first
            The first columns of the row, which come from the plan.
        read
            Reads the row.

        Raises
        ------
        DataError
            If ``read`` does.
        """
        if not self.used:
            return read()
        facts = self._facts(name)
        known, row = self._entry(name)
        if known == facts and all(_same(row.get(k), v) for k, v in first.items()):
            return row
        row = read()
        if facts == self._facts(name):  # it was not written meanwhile
            columns = list(row)
            if columns not in self.columns:
                self.columns.append(columns)
            entry = [facts, self.columns.index(columns), list(row.values())]
            with suppress(TypeError, ValueError):
                self.new[name] = json.dumps(entry).encode() + b"\n"
        return row

    def save(self) -> None:
        """Write the index if it has changed; without permission or space, there is none."""
        if not self.new:
            return
        places: dict[str, Place] = {}
        entries, end = [], 0
        for name in self.places | self.new:
            entry = self.new.get(name) or self._bytes(name)
            places[name] = end, len(entry), zlib.crc32(entry)
            entries.append(entry)
            end += len(entry)
        content = json.dumps([self.kind, self.columns, places])
        line = f"{_hash(content)} {content}\n".encode()
        with suppress(OSError), whole(self.file) as part:
            part.write_bytes(b"".join([line, *entries]))

    def _read(self) -> None:
        """Read the table of contents, and the entries as bytes that are not looked at yet."""
        with suppress(OSError, ValueError, TypeError), self.file.open("rb") as f:
            noted, _, content = f.readline().decode().rstrip("\n").partition(" ")
            if noted != _hash(content):
                return
            kind, columns, places = json.loads(content)
            if kind == self.kind:
                self.columns, self.places, self.entries = columns, places, f.read()

    def _bytes(self, name: str) -> bytes:
        position, length, _ = self.places[name]
        return self.entries[position : position + length]

    def _entry(self, name: str) -> tuple[list[list[int]] | None, Row]:
        """Return the facts and the row of a point; None if there is none, or it is damaged."""
        if name not in self.places:
            return None, {}
        entry = self._bytes(name)
        if zlib.crc32(entry) != self.places[name][2]:
            return None, {}
        facts, kind, values = json.loads(entry)
        return facts, dict(zip(self.columns[kind], values, strict=True))

    def _facts(self, name: str) -> list[list[int]]:
        """Return size, time and time of the last change of each file; nothing for a missing one."""
        facts: list[list[int]] = []
        for file in self.files:
            try:
                found = os.stat(f"{self.points}/{name}/{file}")  # noqa: PTH116 - thousands of them
            except OSError:
                facts.append([])
            else:
                facts.append([found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino])
        return facts


def _same(a: Any, b: Any) -> bool:
    return type(a) is type(b) and a == b


def _hash(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()
