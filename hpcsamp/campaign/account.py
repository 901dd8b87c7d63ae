"""Account for a campaign: resources used and requested by its points, and the next time limit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hpcsamp.campaign import products
from hpcsamp.campaign.point import Point
from hpcsamp.campaign.points import Campaign
from hpcsamp.campaign.resources import Shape
from hpcsamp.campaign.schedulers import make
from hpcsamp.campaign.schedulers.usage import Used
from hpcsamp.campaign.status import PointStatus, Survey
from hpcsamp.errors import DataError

MARGIN = 1.25
"""Suggested limits are larger than the largest observed use by this factor."""


@dataclass(frozen=True)
class PointAccount:
    """Resources used by a point over all its starts.

    Attributes
    ----------
    status
        The point and its state.
    starts
        Number of its starts.
    longest
        Wall-clock time of its longest start in seconds.
    used
        Its resources; the memory is that of one task, here a rank.
    source
        ``accounting`` if the scheduler measured the use, ``records`` if the job scripts did.
    """

    status: PointStatus
    starts: int
    longest: float
    used: Used
    source: str

    @property
    def point(self) -> Point:
        """The point."""
        return self.status.point

    @property
    def core_hours(self) -> float:
        """Core-hours allocated to the point."""
        shape = self.point.shape
        return shape.ranks * shape.cores * self.used.seconds / 3600

    @property
    def gpu_hours(self) -> float:
        """GPU-hours allocated to the point."""
        return self.point.shape.gpus * self.point.shape.nodes * self.used.seconds / 3600

    @property
    def of_limit(self) -> float:
        """Duration of the longest start as a fraction of the time limit."""
        return self.longest / (self.point.shape.minutes * 60)

    @property
    def memory_per_node(self) -> float | None:
        """Memory of the ranks of a node in MiB, if every rank used as much as the largest."""
        each = self.used.memory
        return None if each is None else each * self.point.shape.ranks_per_node


def account(
    campaign: Campaign, survey: Survey, points: Sequence[PointStatus], ask_scheduler: bool = True
) -> list[PointAccount]:
    """Return the resources used by the points that were started.

    Elapsed time, CPU time, memory and energy are taken from the scheduler's accounting if
    available. Otherwise the times are those that the job scripts recorded for each start, and the
    memory is that of the largest rank in the summary of the run. A start without a recorded end,
    e.g. after a node failure, lasts until the last output in its log.

    Raises
    ------
    SchedulerError
        If a scheduler that must be queried does not answer.
    """
    elements = {s.point.name: survey.elements_of(s.point) for s in points}
    known: dict[tuple[str, int], Used] = {}
    for kind in {s.scheduler for s in survey.state.submissions} if ask_scheduler else ():
        jobs = {r.job for s in survey.state.submissions if s.scheduler == kind for r in s.jobs}
        asked = {p.element[0] for found in elements.values() for p in found if not p.several} & jobs
        known |= make(campaign.site, kind).used(sorted(job for job in asked if job))
    accounts = []
    for status in points:
        name = status.point.name
        starts = _starts(campaign.folder / "points" / name, campaign.folder / "submissions")
        by_scheduler = [
            known[p.element] for p in elements[name] if p.element in known and not p.several
        ]
        if not starts and not by_scheduler:
            continue
        seconds = sum(starts)
        used = Used(seconds, memory=_peak(campaign.folder / "points" / name))
        if by_scheduler:
            used = _total(by_scheduler, used)
        accounts.append(
            PointAccount(
                status,
                starts=len(starts) or len(by_scheduler),
                longest=max(starts, default=used.seconds),
                used=used,
                source="accounting" if by_scheduler else "records",
            )
        )
    return accounts


@dataclass(frozen=True)
class Advice:
    """Suggested limits for points of one shape.

    Attributes
    ----------
    shape
        Resources that were requested.
    time
        Suggested time limit as ``hours:minutes:seconds``.
    memory
        Suggested memory per node in MiB; 0 if it was not measured.
    points
        Number of finished points on which this is based.
    """

    shape: Shape
    time: str
    memory: int
    points: int


def advise(accounts: Sequence[PointAccount]) -> list[Advice]:
    """Suggest limits for each shape from its finished points: the largest use and a quarter more.

    For a point that was started several times, the time is the sum over its starts.
    """
    by_shape: dict[Shape, list[PointAccount]] = {}
    for one in accounts:
        if one.status.word == "done":
            by_shape.setdefault(one.point.shape, []).append(one)
    found = []
    for shape, members in sorted(by_shape.items()):
        minutes = MARGIN * max(a.used.seconds for a in members) / 60
        step = 5 if minutes <= 60 else 15
        whole = max(step, math.ceil(minutes / step) * step)
        memory = max((a.memory_per_node or 0 for a in members), default=0) * MARGIN
        found.append(
            Advice(
                shape,
                f"{whole // 60:02d}:{whole % 60:02d}:00",
                math.ceil(memory / 100) * 100,
                len(members),
            )
        )
    return found


def _starts(folder: Path, submissions: Path) -> list[float]:
    """Return the seconds of each start that the job script has recorded in ``.times``."""
    try:
        lines = [line.split() for line in (folder / ".times").read_text().splitlines()]
    except OSError:
        return []
    found: list[float] = []
    began, log = None, ""
    for when, word, of, *_ in [*(line for line in lines if len(line) >= 3), ("", "running", "")]:
        if word == "running":
            if began is not None:  # the last start has no end
                found.append(max(0.0, _last_output(submissions / f"{log}.txt") - began))
            began, log = (float(when) if when.isdigit() else None), of
        elif began is not None:
            found.append(float(when) - began)
            began = None
    return found


def _last_output(log: Path) -> float:
    try:
        return log.stat().st_mtime
    except OSError:
        return 0.0


def _peak(folder: Path) -> float | None:
    """Return the memory of the largest rank in MiB, from the summary of a run."""
    if not (folder / "summary.json").exists():
        return None
    try:
        peak = products.read(folder, "summary.json").get("peak_rss_mb")
    except DataError:
        return None
    return float(peak) if isinstance(peak, int | float) else None


def _total(parts: Sequence[Used], records: Used) -> Used:
    def total(values: list[float | None]) -> float | None:
        known = [v for v in values if v is not None]
        return sum(known) if known else None

    memory = [u.memory for u in parts if u.memory is not None]
    return Used(
        sum(u.seconds for u in parts),
        total([u.cpu_seconds for u in parts]),
        max(memory) if memory else records.memory,
        total([u.joules for u in parts]),
    )
