"""Render, submit and cancel the jobs of a campaign, so that no job is submitted twice or lost."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from hpcsamp.campaign import provenance, render, runnable, start
from hpcsamp.campaign.mending import load, mend
from hpcsamp.campaign.point import Point
from hpcsamp.campaign.points import Campaign
from hpcsamp.campaign.schedulers import Element, Limits, SchedulerError, make
from hpcsamp.campaign.schedulers.base import check_limits
from hpcsamp.campaign.selection import Selection
from hpcsamp.campaign.status import Survey, Word
from hpcsamp.campaign.store import CampaignState, JobRecord, Store, Submission
from hpcsamp.errors import DataError, HpcsampError, UsageError
from hpcsamp.files import write_whole
from hpcsamp.sealing import text as sealed

NEW: tuple[Word, ...] = ("missing", "outdated")
"""States of points that are submitted."""

EVERY = Selection()

RENDERED = "rendered.json"
"""Hashes of the files of a submission as they were rendered."""


@dataclass(frozen=True)
class Rendered:
    """A submission whose files were rendered, but not submitted yet.

    Attributes
    ----------
    number, folder
        Number and folder of the submission.
    jobs
        Its job arrays.
    hashes
        sha256 of every file on disk.
    edited
        Files that were edited by hand after they were rendered.
    """

    number: int
    folder: Path
    jobs: list[render.Job]
    hashes: dict[str, str]
    edited: tuple[str, ...]


@dataclass(frozen=True)
class Submitted:
    """Result of a submission.

    Attributes
    ----------
    points
        Submitted points; empty if there were none to submit.
    jobs
        Identifiers of the job arrays.
    folder
        Folder of the submission.
    """

    points: list[Point]
    jobs: list[str]
    folder: Path | None


def render_next(
    campaign: Campaign,
    store: Store,
    state: CampaignState,
    points: Sequence[Point],
    edits: str = "refuse",
    limits: Limits | None = None,
) -> Rendered:
    """Write the job scripts of the next submission.

    Parameters
    ----------
    limits
        Limits of the scheduler; None to query it.
    edits
        How to treat scripts that were edited after they were rendered: ``"refuse"``, ``"accept"``
        (keep them) or ``"discard"``.

    Raises
    ------
    UsageError
        If scripts were edited and ``edits`` is ``"refuse"``, the scheduler does not allow a limit,
        the environment file is missing, or files cannot be written.
    """
    runnable.check(campaign, points)
    scheduler = make(campaign.site)
    limits = scheduler.limits() if limits is None else limits
    jobs = render.arrays(points, campaign.site, campaign.site.max_array or limits.array)
    shapes = dict.fromkeys(j.shape for j in jobs)
    check_limits(shapes, campaign.site, limits, scheduler.partition_word)
    number = len(state.submissions) + 1
    folder = store.submission(number)
    texts = render.files(campaign, jobs, folder)
    fresh = {name: _sha256(text) for name, text in texts.items()}
    recorded = _recorded(folder)
    on_disk = {name: _sha256_of(folder / name) for name in {*recorded, *texts}}
    edited = tuple(
        sorted(n for n, was in recorded.items() if on_disk[n] is not None and on_disk[n] != was)
    )
    if edited and edits == "refuse":
        raise UsageError(
            f"{folder / edited[0]} was edited since it was rendered: submit it as it is with "
            f"--accept-edits, or render it again with hpcsamp campaign render --force"
        )
    if edited and edits == "accept" and recorded != fresh:
        raise UsageError(
            f"{folder / edited[0]} was edited, but the points to submit have changed since it was "
            f"rendered: render it again with hpcsamp campaign render --force"
        )
    with store.writing():
        folder.mkdir(parents=True, exist_ok=True)
        for old in sorted(set(recorded) - set(texts)):
            (folder / old).unlink(missing_ok=True)
        for name, text in texts.items():
            if name not in edited or edits == "discard":
                write_whole(folder / name, text)
        write_whole(folder / RENDERED, sealed.to_json({"files": fresh}, sealed.owner_of(folder)))
    kept = edited if edits == "accept" else ()
    hashes = {n: (on_disk[n] or "") if n in kept else h for n, h in fresh.items()}
    return Rendered(number, folder, jobs, hashes, kept)


def submit(
    campaign: Campaign,
    words: Sequence[Word],
    *,
    selection: Selection = EVERY,
    accept_edits: bool = False,
    time: str | None = None,
    memory: str | None = None,
    needs: Mapping[str, tuple[Element, ...]] | None = None,
) -> Submitted:
    """Submit the points that are in the given states.

    The submission is recorded before the scheduler is called, and each job identifier as soon as
    it is known; if it cannot be recorded, the job is cancelled. A campaign therefore never loses a
    job.

    Parameters
    ----------
    words
        States, e.g. ``["missing"]``.
    selection
        Further conditions on the points.
    accept_edits
        Submit scripts that were edited by hand without changes.
    time, memory
        Limits that replace those of the plan.
    needs
        Elements of other jobs that must succeed before a point starts, by its name.

    Raises
    ------
    HpcsampError
        If the submission fails; the campaign is then unchanged.
    """
    store = Store(campaign.folder)
    with store.lock():
        state = mend(campaign, store.load(), store)
        survey = Survey(campaign, state)
        chosen = [
            replace(s.point, shape=s.point.shape.more(time, memory))
            for s in selection.among(campaign, survey.of(*words))
        ]
        if not chosen:
            return Submitted([], [], None)
        rendered = render_next(
            campaign, store, state, chosen, "accept" if accept_edits else "refuse"
        )
        records = {
            job.script: JobRecord(
                script=job.script,
                table=job.table,
                sha256=rendered.hashes[job.script],
                table_sha256=rendered.hashes[job.table],
                count=len(job.points),
                points_per_job=job.shape.points_per_job,
                shape=job.shape.describe(),
                identity=render.identity(rendered.folder, job),
            )
            for job in rendered.jobs
        }
        with store.writing():
            store.marks.mkdir(parents=True, exist_ok=True)
            store.points.mkdir(exist_ok=True)
            start.keep(campaign)
            provenance.stamp(campaign, rendered.folder, chosen, rendered.hashes, rendered.edited)
        new = Submission(
            number=rendered.number,
            scheduler=campaign.site.scheduler,
            jobs=list(records.values()),
        )
        before = state.model_copy(deep=True)
        state.datasets |= campaign.datasets
        state.folders |= campaign.folders
        state.submissions.append(new)
        store.save(state)
        scheduler = make(campaign.site)
        taken: list[str] = []

        def note(job: render.Job, identifier: str) -> None:
            records[job.script].job = identifier
            try:
                store.save(state)
            except HpcsampError:
                scheduler.cancel([identifier])  # no job is better than an unrecorded one
                records[job.script].job = None
                raise
            taken.append(identifier)

        try:
            after = _before(campaign, survey, len(rendered.jobs))
            more = {"after": after} if after else {}
            jobs = [
                replace(j, needs=tuple(needs.get(p.name, ()) for p in j.points)) if needs else j
                for j in rendered.jobs
            ]
            scheduler.submit(jobs, rendered.folder, note, **more)
        except HpcsampError as e:
            if not taken:
                _restore(store, before)
                raise
            new.jobs = [r for r in new.jobs if r.job is not None]
            _restore(store, state)
            raise SchedulerError(
                f"{len(taken)} of {len(rendered.jobs)} arrays were submitted, then: {e}"
            ) from e
        return Submitted(chosen, taken, rendered.folder)


def cancel(campaign: Campaign, selection: Selection = EVERY) -> list[str]:
    """Cancel waiting and running jobs of a campaign, all of them or the points of a selection.

    Returns
    -------
    list of str
        Identifiers of the jobs that were cancelled, or the numbers of the selected points.

    Raises
    ------
    SchedulerError
        If the scheduler does not answer, or cannot cancel single points.
    """
    state = load(campaign)
    survey = Survey(campaign, state)
    if selection:
        chosen = selection.among(campaign, survey.of("queued", "running"))
        elements: dict[str, list[Element]] = {}
        for status in chosen:
            for kind, element in survey.elements[status.point.name]:
                elements.setdefault(kind, []).append(element)
        _check_alone(survey, {s.point.name for s in chosen})
        for kind, members in sorted(elements.items()):
            make(campaign.site, kind).cancel_elements(members)
        return [f"point {s.point.number}" for s in chosen]
    ended = []
    for kind in sorted({kind for kind, _ in survey.jobs}):
        live = sorted(job for of, job in survey.jobs if of == kind)
        make(campaign.site, kind).cancel(live)
        ended += live
    return ended


def _check_alone(survey: Survey, chosen: set[str]) -> None:
    """Check that the jobs of the given points run no others, which would be cancelled as well."""
    jobs = {place for name in chosen for place in survey.elements[name]}
    numbers = {s.point.name: s.point.number for s in survey.points}
    others = sorted(
        numbers[name]
        for name, places in survey.elements.items()
        if name not in chosen and name in survey.live and jobs & set(places)
    )
    if others:
        listed = ", ".join(map(str, others[:10])) + " ..." * (len(others) > 10)
        raise UsageError(
            f"points in the same jobs (resources.points_per_job): {listed}; select them as well"
        )


def _before(campaign: Campaign, survey: Survey, arrays: int) -> list[str]:
    """Return the jobs that new jobs must wait for, so that ``at_once`` holds for all of them.

    Raises
    ------
    UsageError
        If a line of the header has a dependency, which would be lost.
    """
    site = campaign.site
    after = sorted({job for kind, job in survey.jobs if kind == site.scheduler})
    if not site.at_once:
        return []
    own = [line for line in site.header if re.search(r"--dependency|\bdepend=", line)]
    if own and (after or arrays > 1):
        raise UsageError(
            f"site.header: {own[0]!r} cannot be kept: with site.at_once = {site.at_once}, arrays "
            f"of the campaign wait for each other"
        )
    return after


def _restore(store: Store, state: CampaignState) -> None:
    with suppress(HpcsampError):  # otherwise the next command looks for unrecorded jobs
        store.save(state)


def _recorded(folder: Path) -> dict[str, str]:
    """Return the hashes of the files of a submission as rendered; empty before rendering."""
    path = folder / RENDERED
    if not path.exists():
        return {}
    table = sealed.read_json(path, sealed.owner_of(folder), unsealed=bool)
    files = table.get(
        "files", table
    )  # files of earlier versions are the table itself, without a seal
    if not isinstance(files, dict) or any(
        not isinstance(v, str) or Path(k).name != k for k, v in files.items()
    ):
        raise DataError(f"{path} is damaged: the hashes of files are missing or wrong")
    return files


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _sha256_of(path: Path) -> str | None:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None
