"""What a campaign keeps on disk, and how it is kept whole.

    campaign.json      the submissions: which job ran which table of points
    submissions/0001/  job scripts, tables, base configuration, provenance, logs
    points/HASH/       run folders
    marks/HASH.STATE   one empty file a point: running, stopped, failed.CODE or done.SIGNATURE

A mark's name is changed by the job itself, so that one listing of ``marks/`` tells of thousands of
points without touching their folders.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, ValidationError

from hpcsamp.config import one_of
from hpcsamp.errors import DataError, UsageError
from hpcsamp.files import write_whole
from hpcsamp.locks import locked
from hpcsamp.names import SCHEDULERS
from hpcsamp.sealing import edits, text

VERSION = 1


class JobRecord(BaseModel):
    """One job array of a submission: hashes of its script and its table of points as submitted.

    ``job`` is None until the scheduler has taken it.
    """

    model_config = ConfigDict(extra="forbid")
    script: str
    table: str
    sha256: str
    table_sha256: str = ""
    count: int
    shape: str
    job: str | None = None


class Submission(BaseModel):
    """What was handed to a scheduler in one go."""

    model_config = ConfigDict(extra="forbid")
    number: int
    scheduler: Annotated[str, one_of(SCHEDULERS)]
    jobs: list[JobRecord]


class State(BaseModel):
    """``campaign.json``."""

    model_config = ConfigDict(extra="forbid")
    version: int = VERSION
    datasets: dict[str, str] = {}
    submissions: list[Submission] = []


class Store:
    """The folder of a campaign.

    Parameters
    ----------
    folder
        Where it is, or will be.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.points = folder / "points"
        self.marks = folder / "marks"

    @property
    def file(self) -> Path:
        """The state file."""
        return self.folder / "campaign.json"

    def submission(self, number: int) -> Path:
        """Folder of a submission, counted from 1."""
        return self.folder / "submissions" / f"{number:04d}"

    def load(self) -> State:
        """The state; a fresh one where there is none.

        Raises
        ------
        DataError
            If the file is damaged or of another version.
        """
        if not self.file.exists():
            return State()
        table = text.read_json(
            self.file, self.folder.name, unsealed=lambda table: "submissions" in table
        )
        try:
            state = State.model_validate(table)
        except ValidationError as e:
            raise DataError(f"{self.file} is damaged: {e.errors()[0]['msg']}") from None
        if state.version != VERSION:
            raise DataError(f"{self.file} has version {state.version}, this is {VERSION}")
        return state

    def save(self, state: State) -> None:
        """Write the state, whole or not at all.

        Raises
        ------
        UsageError
            If it cannot be written; the old one is still there.
        """
        with self.writing():
            self.folder.mkdir(parents=True, exist_ok=True)
            write_whole(self.file, text.to_json(state.model_dump(mode="json"), self.folder.name))

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Say in one line that something cannot be written here: a quota, no permission."""
        try:
            yield
        except OSError as e:
            where = e.filename or self.folder
            raise UsageError(
                f"cannot write {where}: {e.strerror}; nothing was submitted by this, and the "
                f"campaign is as it was"
            ) from e

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Only one command at a time changes a campaign.

        Raises
        ------
        UsageError
            If another one is at it.
        """
        with self.writing():
            self.folder.mkdir(parents=True, exist_ok=True)
        with locked(self.folder / ".lock", f"the campaign {self.folder}"):
            yield

    # Points -----------------------------------------------------------------------------------

    def read_marks(self) -> dict[str, str]:
        """Mark of every point that has one: one listing.

        After a node failed between two renames a point may have two; the better one counts, and is
        checked against the products in any case.
        """
        order = ("done", "running", "stopped", "failed")
        found: dict[str, str] = {}
        for entry in _listing(self.marks):
            name, _, mark = entry.partition(".")
            kind = mark.split(".")[0]
            if kind not in order:
                continue
            before = found.get(name)
            if before is None or order.index(kind) < order.index(before.split(".")[0]):
                found[name] = mark
        return found

    def read_folders(self) -> set[str]:
        """Names of the points that have a folder: one listing."""
        return set(_listing(self.points))

    def members(self, submission: Submission, record: JobRecord) -> list[str]:
        """Names of the points of an array, by the index of its elements.

        Raises
        ------
        DataError
            If the table cannot be read, or is not what was submitted.
        """
        path = self.submission(submission.number) / record.table
        try:
            content = path.read_bytes()
        except OSError as e:
            raise DataError(f"cannot read {path}: {e.strerror}") from e
        if record.table_sha256 not in ("", hashlib.sha256(content).hexdigest()):
            edits.found(path)
        lines = content.rstrip(b"\n").split(b"\n")
        names = [line.split(b"\t")[0] for line in lines]
        return [name.decode(errors="replace") for name in names]


def _listing(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208 - names alone, as few calls as there can be
    except FileNotFoundError:
        return []
