"""Determine the state of each point of a campaign: missing, queued, running, done ...

The scheduler knows the waiting and running jobs, marks record how all others ended, and a point is
done only if its result files are the same as when the job checked them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from hpcsamp.campaign import causes, mending, products, space
from hpcsamp.campaign.point import Point
from hpcsamp.campaign.points import Campaign
from hpcsamp.campaign.render import log_stem
from hpcsamp.campaign.schedulers import Element, Seen, make
from hpcsamp.campaign.store import CampaignState, JobRecord, Store, Submission
from hpcsamp.errors import DataError
from hpcsamp.sealing import edits

Word = Literal[
    "missing", "queued", "running", "done", "outdated", "failed", "interrupted", "pruned"
]
WORDS: tuple[Word, ...] = get_args(Word)

#: Prefixes of scheduler reasons that add nothing to the exit code in a mark.
_KNOWN_BY_MARK = ("COMPLETED", "FAILED", "exit status")


@dataclass(frozen=True)
class PointStatus:
    """State of one point.

    Attributes
    ----------
    point
        The point.
    word
        Its state. ``missing``: never started. ``interrupted``: started, and ended without a mark.
        ``outdated``: trained, but the campaign file now requires further result files. ``pruned``:
        ended by the pruner of a search.
    why
        If failed or outdated, the exit code or the problem with the result files; if queued, why it
        is waiting.
    """

    point: Point
    word: Word
    why: str = ""


class Place(NamedTuple):
    """Where a point was submitted.

    Attributes
    ----------
    element
        The element of a job array that runs it.
    log
        Its log.
    several
        Whether the element also runs other points.
    """

    element: Element
    log: Path
    several: bool


class Survey:
    """States of all points at one time.

    Parameters
    ----------
    campaign
        The campaign.
    state
        Its submissions.
    ask_scheduler
        Whether to query the scheduler for waiting and running jobs; otherwise their points count as
        missing or interrupted.
    answers
        What the schedulers have answered already, by their names; see :func:`together`.

    Attributes
    ----------
    points
        State of each point.
    jobs
        Waiting or running jobs, each with the name of its scheduler.
    elements
        Elements of these jobs by the names of their points.
    """

    def __init__(
        self,
        campaign: Campaign,
        state: CampaignState,
        ask_scheduler: bool = True,
        answers: Mapping[str, Mapping[Element, Seen]] | None = None,
    ) -> None:
        self.campaign = campaign
        self.state = state
        self.store = Store(campaign.folder)
        self.wanted, self.planned = campaign.spec.files(), campaign.spec.planned()
        self.jobs: set[tuple[str, str]] = set()
        self.elements: dict[str, list[tuple[str, Element]]] = {}
        self._tables: dict[tuple[int, str], dict[str, int]] = {}
        marks = self.store.read_marks()
        self.live = self._live(marks, answers) if ask_scheduler else {}
        folders = self.store.read_folders()
        search = campaign.spec.search is not None
        self._pruned = space.read_pruned(campaign.folder) if search else set()
        self.points = [self._status(p, marks.get(p.name), folders) for p in campaign.points]

    def counts(self) -> Counter[Word]:
        """Return the number of points in each state."""
        return Counter(s.word for s in self.points)

    def of(self, *words: Word) -> list[PointStatus]:
        """Return the points in these states."""
        return [s for s in self.points if s.word in words]

    def element(self, point: Point) -> Place | None:
        """Return the array element of a point's last start.

        Without a record of starts, as in earlier versions, it is the newest element that was
        submitted for the point.
        """
        start = causes.last_start(self.store.points / point.name)
        for place in self.elements_of(point):
            if start is None or place.log == self.store.folder / f"submissions/{start.log}.txt":
                return place
        return None

    def elements_of(self, point: Point) -> list[Place]:
        """Return all array elements that were submitted for a point; the newest is the first."""
        found = []
        for submission in reversed(self.state.submissions):
            for record in submission.jobs:
                line = self._places(submission, record).get(point.name)
                if line is not None and record.job is not None:
                    folder = self.store.submission(submission.number)
                    several = record.points_per_job
                    found.append(
                        Place(
                            (record.job, line // several),
                            folder / f"{log_stem(record.script)}-{line}.txt",
                            several > 1,
                        )
                    )
        return found

    def reasons(self, points: Sequence[PointStatus]) -> dict[str, str]:
        """Explain why points failed or are waiting, one line each: exit code, reason, exception."""
        lost = [s for s in points if s.word in ("failed", "interrupted")]
        elements = {s.point.name: self.element(s.point) for s in lost}
        ended: dict[Element, str] = {}
        for kind in {s.scheduler for s in self.state.submissions}:
            asked = {e.element[0] for e in elements.values() if e} & {
                r.job for s in self.state.submissions if s.scheduler == kind for r in s.jobs
            }
            ended |= make(self.campaign.site, kind).ended(sorted(j for j in asked if j))
        reasons = {s.point.name: s.why for s in points}
        for status in lost:
            name = status.point.name
            parts, element = [status.why], elements[name]
            if element:
                end = ended.get(element.element, "")
                own = not element.several and not end.startswith(_KNOWN_BY_MARK)
                if status.word == "interrupted" or own:
                    parts.append(end)
                start = causes.last_start(self.store.points / name)
                number = start.number if start else None
                parts.append(causes.of_log(element.log, name, number))
            reasons[name] = ": ".join(p for p in parts if p) or "no reason is recorded"
        return reasons

    # ------------------------------------------------------------------------------------------

    def _live(
        self, marks: Mapping[str, str], answers: Mapping[str, Mapping[Element, Seen]] | None
    ) -> dict[str, Seen]:
        """Query the schedulers for the states of waiting and running points, by name."""
        found: dict[str, Seen] = {}
        for kind in {s.scheduler for s in self.state.submissions}:
            records = [
                (s, r) for s in self.state.submissions if s.scheduler == kind for r in s.jobs
            ]
            asked = [r.job for _, r in records if r.job]
            live = answers[kind] if answers else make(self.campaign.site, kind).look(asked)
            jobs = {e[0] for e in live} & set(asked)
            self.jobs |= {(kind, job) for job in jobs}
            for submission, record in records:
                if record.job not in jobs:
                    continue
                several = record.points_per_job > 1
                for name, line in self._places(submission, record).items():
                    index = line // record.points_per_job
                    seen = live.get((record.job or "", index))
                    if seen is not None and several:
                        log = f"{submission.number:04d}/{log_stem(record.script)}-{line}"
                        seen = self._of_several(name, log, seen, marks.get(name, ""))
                    if seen is None:
                        continue
                    self.elements.setdefault(name, []).append((kind, (record.job or "", index)))
                    if name not in found or seen.word == "running":
                        found[name] = seen
        return found

    def _of_several(self, name: str, log: str, seen: Seen, mark: str) -> Seen | None:
        """Return the state of a point whose job runs several points; None if it has ended."""
        start = causes.last_start(self.store.points / name)
        kind = mark.partition(".")[0]
        if start is None or start.log != log or kind == "stopped":
            return Seen("queued", seen.why)
        return seen if kind == "running" else None

    def _status(self, point: Point, mark: str | None, folders: set[str]) -> PointStatus:
        kind, _, detail = (mark or "").partition(".")
        folder = f"{self.campaign.folder}/points/{point.name}"
        fault, outdated = "", False
        if kind == "done":
            if point.name not in folders or not self._as_checked(folder, detail):
                fault, outdated = self._fault(Path(folder), detail)
            if not fault:
                return PointStatus(point, "done")
        live = self.live.get(point.name)
        if live is not None:
            return PointStatus(point, live.word, live.why)
        if point.name in self._pruned:
            return PointStatus(point, "pruned")
        if fault:
            return PointStatus(point, "outdated" if outdated else "failed", fault)
        if kind == "failed":
            return PointStatus(point, "failed", causes.of_exit(detail))
        if kind:
            return PointStatus(point, "interrupted")
        if point.name in folders:  # run by hand, or before the mark was written
            whole = not _fault(Path(folder), self.wanted)
            return PointStatus(point, "done" if whole else "interrupted")
        return PointStatus(point, "missing")

    def _as_checked(self, folder: str, detail: str) -> bool:
        """Whether result files have the sizes and times recorded when they were checked."""
        noted, *others = detail.split(".")
        if others and others[1:] != [self.planned]:
            return False
        known = products.signature if others else products.former_signature
        return known(folder, self.wanted) == noted

    def _fault(self, folder: Path, detail: str) -> tuple[str, bool]:
        """Read result files; return the problem, and whether only further files are missing."""
        _, content, planned, *_ = [*detail.split("."), "", ""]
        fault = _fault(folder, self.wanted)
        if planned and planned != self.planned:  # trained for fewer or other result files
            begun = (folder / "summary.json").exists()
            return fault, begun
        if not fault and content and content != products.content(folder, self.wanted):
            try:
                edits.found(folder / self.wanted[0])
            except DataError:
                listed = ", ".join(self.wanted)
                fault = f"{folder}: {listed} changed since the point ended (see --accept-edits)"
        return fault, False

    def _places(self, submission: Submission, record: JobRecord) -> dict[str, int]:
        """Return the array index of each point, by name."""
        key = (submission.number, record.table)
        if key not in self._tables:
            members = self.store.members(submission, record)
            self._tables[key] = {name: index for index, name in enumerate(members)}
        return self._tables[key]


def together(campaigns: Sequence[Campaign]) -> list[Survey]:
    """Survey a campaign and its stages with one query of each scheduler.

    Raises
    ------
    SchedulerError
        If a scheduler does not answer.
    """
    states = [mending.load(campaign) for campaign in campaigns]
    jobs: dict[str, list[str]] = {}
    for submission in (s for state in states for s in state.submissions):
        of_kind = jobs.setdefault(submission.scheduler, [])
        of_kind += [r.job for r in submission.jobs if r.job]
    answers = {kind: make(campaigns[0].site, kind).look(asked) for kind, asked in jobs.items()}
    return [Survey(c, s, answers=answers) for c, s in zip(campaigns, states, strict=True)]


def _fault(folder: Path, wanted: Sequence[str]) -> str:
    try:
        products.check(folder, wanted)
    except DataError as e:
        return str(e)
    return ""
