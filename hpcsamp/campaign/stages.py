"""Stages of a campaign: what follows its points, each a campaign of its own in ``stages/NAME``.

A stage has its points, marks, scripts and logs like any campaign, and is looked at, cancelled and
continued like one. Its jobs wait in the scheduler for those of the stages that it needs; job
scripts check again that what they need is done, and leave the point unstarted if not.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from hpcsamp.campaign import mending, stage, submit
from hpcsamp.campaign.points import Campaign
from hpcsamp.campaign.selection import Selection
from hpcsamp.campaign.stage import POINTS
from hpcsamp.campaign.status import PointStatus, Survey, Word
from hpcsamp.campaign.submit import EVERY, Submitted
from hpcsamp.errors import UsageError
from hpcsamp.spelling import suggest


def of(campaign: Campaign) -> dict[str, Campaign]:
    """Return the stages of a campaign in their order, without the points themselves."""
    made: dict[str, Campaign] = {}
    for name in campaign.spec.stages:
        needs = {
            n: campaign if n == POINTS else made[n]
            for n in stage.needed(campaign.spec.stages, name)
        }
        made[name] = _stage(campaign, name, needs)
    return made


def load(file: Path, site: str | None = None) -> Campaign:
    """Read a campaign file, or a stage of one: ``FILE:STAGE``.

    Raises
    ------
    UsageError
        If the file has no such stage, or cannot be read.
    """
    path, colon, name = str(file).rpartition(":")
    if not colon or file.exists() or not Path(path).is_file():
        return Campaign(file, site)
    campaign = Campaign(Path(path), site)
    stages = of(campaign)
    if name not in stages:
        raise UsageError(f"{path} has no [stage.{name}]{suggest(name, list(stages))}")
    return stages[name]


def submit_all(
    campaign: Campaign,
    words: Sequence[Word],
    selection: Selection = EVERY,
    *,
    accept_edits: bool = False,
    time: str | None = None,
    memory: str | None = None,
) -> dict[str, list[Submitted]]:
    """Submit points of a campaign, and of its stages all that can follow.

    A point of a stage is submitted if what it needs is done, waiting or running. With a selection,
    only what follows each of the selected points is submitted.

    Parameters
    ----------
    words
        States of the points to submit, e.g. ``["missing"]``.
    selection
        Further conditions.
    accept_edits
        Submit scripts that were edited by hand without changes.
    time, memory
        Limits that replace those of the points; stages keep theirs.

    Returns
    -------
    dict of str to list of Submitted
        Submissions by stage.

    Raises
    ------
    HpcsampError
        If a submission fails; earlier ones remain.
    """
    first = submit.submit(
        campaign, words, selection=selection, accept_edits=accept_edits, time=time, memory=memory
    )
    done = {POINTS: [first]}
    stages = of(campaign)
    names = {p.name for p in selection.of_plan(campaign)} if stages else set()
    for name, made in stages.items():
        if selection and campaign.spec.stages[name].every:
            continue
        done[name] = _follow(made, words, names if selection else None, accept_edits)
    return done


def cancel_all(campaign: Campaign, selection: Selection = EVERY) -> list[str]:
    """Cancel jobs of a campaign, and those of its stages unless points are selected.

    What follows a cancelled point does not start.

    Returns
    -------
    list of str
        Identifiers of the jobs, or the numbers of the selected points.
    """
    last = [] if selection else [*of(campaign).values()][::-1]
    ended = [job for made in last for job in submit.cancel(made)]
    return [*submit.cancel(campaign, selection), *ended]


def _follow(
    made: Campaign, words: Sequence[Word], names: set[str] | None, accept_edits: bool
) -> list[Submitted]:
    """Submit the points of a stage in one submission for each set of jobs that they wait for."""
    before = [Survey(need, mending.load(need)) for need in made.needs.values()]
    by_name = [{s.point.name: s for s in survey.points} for survey in before]
    groups: dict[frozenset[str], dict[str, tuple[tuple[str, int], ...]]] = {}
    for status in Survey(made, mending.load(made)).of(*words):
        name = status.point.name
        if names is not None and name not in names:
            continue
        elements: list[tuple[str, int]] = []
        for survey, known in zip(before, by_name, strict=True):
            needed = survey.points if name not in known else [known[name]]
            if not all(_is_coming(s) for s in needed):
                break
            live = (survey.elements.get(s.point.name, []) for s in needed if s.word != "done")
            elements += [element for places in live for _, element in places]
        else:
            jobs = frozenset(job for job, _ in elements)
            groups.setdefault(jobs, {})[name] = tuple(dict.fromkeys(elements))
    return [
        submit.submit(
            made,
            words,
            selection=Selection(points=tuple(members)),
            accept_edits=accept_edits,
            needs=members,
        )
        for members in groups.values()
    ]


def _is_coming(status: PointStatus) -> bool:
    return status.word in ("done", "queued", "running")


def _stage(campaign: Campaign, name: str, needs: dict[str, Campaign]) -> Campaign:
    given = campaign.spec.stages[name]
    own = {
        "name": f"{campaign.spec.name}-{name}",
        "commands": given.commands,
        "results": given.results,
        "resources": given.resources,
        "stages": {},
    }
    if given.every:
        own |= {
            "product": given.product,
            "together": {},
            "listed": [],
            "exclude": [],
            "derived": {},
        }
    made = copy.copy(campaign)
    made.__dict__.pop("points", None)
    made.spec = campaign.spec.model_copy(update=own)
    made.folder = campaign.folder / "stages" / name
    made.needs, made.folders = needs, {}
    made.read_again()
    if given.every:
        texts = [f"{n} {p.name}" for n, need in needs.items() for p in need.points]
        made.after = hashlib.sha256("\n".join([name, *texts]).encode()).hexdigest()[:16]
    else:
        made.__dict__["points"] = [replace(p, shape=made.shape_of(p)) for p in campaign.points]
    return made
