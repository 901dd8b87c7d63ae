"""State of each point of a campaign: missing, queued, running, done, failed or interrupted.

The scheduler knows the waiting and running jobs, marks record how all others ended, and a point is
done only if its product files are the same as when the job checked them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hpcsamp.campaign import products
from hpcsamp.campaign.points import Campaign, Point
from hpcsamp.campaign.render import log_stem
from hpcsamp.campaign.schedulers import Element, make
from hpcsamp.campaign.store import CampaignState, JobRecord, Store, Submission
from hpcsamp.errors import DataError

Word = Literal["missing", "queued", "running", "done", "failed", "interrupted"]
WORDS: tuple[Word, ...] = ("missing", "queued", "running", "done", "failed", "interrupted")


@dataclass(frozen=True)
class PointStatus:
    """State of one point.

    Attributes
    ----------
    point
        The point.
    word
        Its state. ``missing``: never started. ``interrupted``: started, and ended without a mark.
    why
        If failed, the exit code or the fault of the product files.
    """

    point: Point
    word: Word
    why: str = ""


class Survey:
    """States of all points at one time.

    Parameters
    ----------
    campaign
        The campaign.
    state
        Its submissions.
    ask_scheduler
        Whether to ask the scheduler for waiting and running jobs; otherwise their points count as
        missing or interrupted.
    """

    def __init__(
        self, campaign: Campaign, state: CampaignState, ask_scheduler: bool = True
    ) -> None:
        self.campaign = campaign
        self.state = state
        self.store = Store(campaign.folder)
        self._tables: dict[tuple[int, str], dict[str, int]] = {}
        self.live = self._live() if ask_scheduler else {}
        marks = self.store.read_marks()
        folders = self.store.read_folders()
        self.points = [self._status(p, marks.get(p.name), folders) for p in campaign.points]

    def counts(self) -> Counter[Word]:
        """Return the number of points in each state."""
        return Counter(s.word for s in self.points)

    def of(self, *words: Word) -> list[PointStatus]:
        """Return the points in these states."""
        return [s for s in self.points if s.word in words]

    def log(self, point: Point) -> Path | None:
        """Return the log of a point in the newest submission that contains it."""
        found = self.element(point)
        return found[1] if found else None

    def element(self, point: Point) -> tuple[Element, Path] | None:
        """Return the newest array element of a point, and its log."""
        for submission in reversed(self.state.submissions):
            for record in submission.jobs:
                index = self._places(submission, record).get(point.name)
                if index is not None and record.job is not None:
                    folder = self.store.submission(submission.number)
                    return (record.job, index), folder / f"{log_stem(record.script)}-{index}.txt"
        return None

    def reasons(self, points: Sequence[PointStatus]) -> dict[str, str]:
        """Explain in one line why each point failed, from its log and the scheduler."""
        elements = {s.point.name: self.element(s.point) for s in points}
        ended: dict[Element, str] = {}
        for kind in {s.scheduler for s in self.state.submissions}:
            asked = {e[0][0] for e in elements.values() if e} & {
                r.job for s in self.state.submissions if s.scheduler == kind for r in s.jobs
            }
            ended |= make(self.campaign.site, kind).ended(sorted(j for j in asked if j))
        reasons = {}
        for status in points:
            element = elements[status.point.name]
            parts = [status.why]
            if element:
                if status.word == "interrupted":
                    parts.append(ended.get(element[0], ""))
                parts.append(_last_error(element[1]))
            reasons[status.point.name] = ": ".join(p for p in parts if p) or "no reason is recorded"
        return reasons

    # ------------------------------------------------------------------------------------------

    def _live(self) -> dict[str, Word]:
        """Ask the schedulers for the states of waiting and running points, by name."""
        found: dict[str, Word] = {}
        for kind in {s.scheduler for s in self.state.submissions}:
            records = [
                (s, r) for s in self.state.submissions if s.scheduler == kind for r in s.jobs
            ]
            live = make(self.campaign.site, kind).live([r.job for _, r in records if r.job])
            jobs = {e[0] for e in live}
            for submission, record in records:
                if record.job not in jobs:
                    continue
                for name, index in self._places(submission, record).items():
                    word = live.get((record.job or "", index))
                    if word is not None and found.get(name) != "running":
                        found[name] = word
        return found

    def _status(self, point: Point, mark: str | None, folders: set[str]) -> PointStatus:
        kind, _, detail = (mark or "").partition(".")
        folder = f"{self.campaign.folder}/points/{point.name}"
        wanted = self.campaign.spec.files()
        fault = ""
        if kind == "done":
            if point.name in folders and products.signature(folder, wanted) == detail:
                return PointStatus(point, "done")
            fault = _fault(Path(folder), wanted)  # the files have changed: read them
            if not fault:
                return PointStatus(point, "done")
        live = self.live.get(point.name)
        if live is not None:
            return PointStatus(point, live)
        if fault:
            return PointStatus(point, "failed", fault)
        if kind == "failed":
            return PointStatus(point, "failed", f"exit {detail}")
        if kind:
            return PointStatus(point, "interrupted")
        if point.name in folders:  # run by hand, or before the mark was made
            whole = not _fault(Path(folder), wanted)
            return PointStatus(point, "done" if whole else "interrupted")
        return PointStatus(point, "missing")

    def _places(self, submission: Submission, record: JobRecord) -> dict[str, int]:
        """Return the index in the array of each point, by name."""
        key = (submission.number, record.table)
        if key not in self._tables:
            members = self.store.members(submission, record)
            self._tables[key] = {name: index for index, name in enumerate(members)}
        return self._tables[key]


def _fault(folder: Path, wanted: Sequence[str]) -> str:
    try:
        products.check(folder, wanted)
    except DataError as e:
        return str(e)
    return ""


def _last_error(log: Path) -> str:
    """Return the last message of hpcsamp in a log, or else the last line."""
    try:
        with log.open("rb") as f:
            f.seek(0, 2)
            f.seek(max(0, f.tell() - 20000))
            lines = [line.strip() for line in f.read().decode(errors="replace").splitlines()]
    except OSError:
        return ""
    lines = [line for line in lines if line]
    errors = [line for line in lines if line.startswith("hpcsamp: ")]
    if errors:
        return errors[-1].removeprefix("hpcsamp: ").removeprefix("error: ")
    return lines[-1] if lines else ""
