"""Index of the results of finished points, so that they are not read again while they are the same.

``.results.json`` in the folder of a campaign holds the row of each point and the sizes and times of
the files that it was read from. An entry is used only if all of these are still the same; the time
of the last change of a file is among them, which programs cannot set. The index may be removed at
any time. It is not used while edited files are accepted, because each of them must be recorded.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from hpcsamp.files import write_whole
from hpcsamp.sealing import edits

FILE = ".results.json"
"""Name of the index in the folder of a campaign."""

VERSION = 1
"""Version of the rows; it changes with what :func:`.collect.collect` makes of the files."""

Row = dict[str, Any]


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
        self.rows: dict[str, Any] = self._read() if self.used else {}
        self.changed = False

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
        known, row = self.rows.get(name, (None, {}))
        if known == facts and all(_same(row.get(k), v) for k, v in first.items()):
            return dict(row)
        row = read()
        if facts == self._facts(name):  # it was not written meanwhile
            self.rows[name] = (facts, row)
            self.changed = True
        return row

    def save(self) -> None:
        """Write the index if it has changed; without permission or space, there is none."""
        if not self.changed:
            return
        with suppress(OSError, TypeError, ValueError):
            content = json.dumps([self.kind, self.rows])
            write_whole(self.file, f"{_hash(content)}\n{content}")

    def _read(self) -> dict[str, Any]:
        try:
            noted, _, content = self.file.read_text("utf-8").partition("\n")
            if noted == _hash(content):
                kind, rows = json.loads(content)
                return dict(rows) if kind == self.kind else {}
        except (OSError, ValueError, TypeError):
            pass
        return {}

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
