"""Folder of a campaign and its state file.

    campaign.json      the submissions: which job ran which table of points
    submissions/0001/  job scripts, tables, base configuration, provenance, logs
    points/HASH/       run folders
    marks/HASH.STATE   one empty file per point: running, stopped, failed.CODE, or
                       done.SIGNATURE.CONTENT.PLAN, see :mod:`.products`

A job renames the marks of its points, so that one listing of ``marks/`` shows the states of
thousands of points without reading their folders.
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
    """One job array of a submission, with the hashes of its script and its table of points.

    ``job`` is None until the scheduler has accepted it; ``identity`` identifies it there.
    """

    model_config = ConfigDict(extra="forbid")
    script: str
    table: str
    sha256: str
    table_sha256: str = ""
    count: int
    points_per_job: int = 1
    shape: str
    identity: str = ""
    job: str | None = None


class Submission(BaseModel):
    """Job arrays that were submitted together."""

    model_config = ConfigDict(extra="forbid")
    number: int
    scheduler: Annotated[str, one_of(SCHEDULERS)]
    jobs: list[JobRecord]


class CampaignState(BaseModel):
    """Content of ``campaign.json``."""

    model_config = ConfigDict(extra="forbid")
    version: int = VERSION
    datasets: dict[str, str] = {}
    folders: dict[str, str] = {}  # names of folders that hold points of other names
    submissions: list[Submission] = []


class Store:
    """Folder of a campaign.

    Parameters
    ----------
    folder
        Path of the folder, which need not exist yet.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.points = folder / "points"
        self.marks = folder / "marks"

    @property
    def file(self) -> Path:
        """Path of the state file."""
        return self.folder / "campaign.json"

    def submission(self, number: int) -> Path:
        """Return the folder of a submission, counted from 1."""
        return self.folder / "submissions" / f"{number:04d}"

    def load(self) -> CampaignState:
        """Read the state; return an empty one if there is no file.

        Raises
        ------
        DataError
            If the file is damaged or of another version.
        """
        if not self.file.exists():
            return CampaignState()
        table = text.read_json(
            self.file, self.folder.name, unsealed=lambda table: "submissions" in table
        )
        try:
            state = CampaignState.model_validate(table)
        except ValidationError as e:
            raise DataError(f"{self.file} is damaged: {e.errors()[0]['msg']}") from None
        if state.version != VERSION:
            raise DataError(f"{self.file} has version {state.version}, but must have {VERSION}")
        return state

    def save(self, state: CampaignState) -> None:
        """Write the state atomically.

        Raises
        ------
        UsageError
            If it cannot be written; the old state is then unchanged.
        """
        with self.writing():
            self.folder.mkdir(parents=True, exist_ok=True)
            write_whole(self.file, text.to_json(state.model_dump(mode="json"), self.folder.name))

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Report in one line that a file cannot be written (a full quota, no permission)."""
        try:
            yield
        except OSError as e:
            where = e.filename or self.folder
            raise UsageError(
                f"cannot write {where}: {e.strerror}; nothing was submitted, and the campaign is "
                f"unchanged"
            ) from e

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Lock the campaign, so that only one command changes it at a time.

        Raises
        ------
        UsageError
            If another command holds the lock.
        """
        with self.writing():
            self.folder.mkdir(parents=True, exist_ok=True)
        with locked(self.folder / ".lock", f"the campaign {self.folder}"):
            yield

    # Points -----------------------------------------------------------------------------------

    def read_marks(self) -> dict[str, str]:
        """Read the marks of all points with one listing.

        If a node failed between two renames, a point may have two marks; the better one counts,
        and it is checked against the result files in any case.
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
        """Read the names of all points that have a folder with one listing."""
        return set(_listing(self.points))

    def members(self, submission: Submission, record: JobRecord) -> list[str]:
        """Return the names of the points of an array, in the order of its elements.

        Raises
        ------
        DataError
            If the table cannot be read, or was changed since it was submitted.
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
        return os.listdir(folder)  # noqa: PTH208 - only names, with as few calls as possible
    except FileNotFoundError:
        return []
