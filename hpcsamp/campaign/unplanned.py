"""List, adopt and remove points on disk that are no longer in the campaign file."""

from __future__ import annotations

import os
import shutil
import tomllib
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hpcsamp import config
from hpcsamp.campaign import mending
from hpcsamp.campaign.naming import Names
from hpcsamp.campaign.point import Point, find
from hpcsamp.campaign.points import Campaign
from hpcsamp.campaign.schedulers import make
from hpcsamp.campaign.status import Survey
from hpcsamp.campaign.store import Store
from hpcsamp.config import flatten, join_key, parse_override, put
from hpcsamp.errors import UsageError
from hpcsamp.spelling import shown

COMPARED = 2000
"""Largest number of planned points to compare with one that is no longer planned."""


@dataclass(frozen=True)
class Unplanned:
    """A point on disk that is not in the plan.

    Attributes
    ----------
    name
        Its folder.
    state
        Its recorded state, e.g. ``done``; empty if none is recorded.
    why
        Differences from the most similar planned point; empty if unknown.
    """

    name: str
    state: str
    why: str


def names(campaign: Campaign) -> list[str]:
    """Return the names of all points on disk that are not in the plan."""
    store = Store(campaign.folder)
    planned = {p.name for p in campaign.points}
    return sorted((store.read_folders() | store.read_marks().keys()) - planned)


def describe(campaign: Campaign, chosen: Sequence[str]) -> list[Unplanned]:
    """Describe points that are not in the plan, from the submissions that ran them."""
    if not chosen:
        return []
    marks = Store(campaign.folder).read_marks()
    ran = _settings(campaign, set(chosen))
    planned = [
        {**flatten(campaign.base), **flatten_settings(p)} for p in campaign.points[:COMPARED]
    ]
    found = []
    for name in chosen:
        why = ""
        if name in ran:
            mine = ran[name]
            near = min(planned, key=lambda other: len(_differences(mine, other)))
            why = ", ".join(_differences(mine, near)) or "results or commands of the campaign file"
        found.append(Unplanned(name, marks.get(name, "").split(".")[0], why))
    return found


def facts(campaign: Campaign, text: str) -> tuple[str, dict[str, Any]]:
    """Return name and configuration of a point by its number or the beginning of its name.

    Raises
    ------
    UsageError
        If there is no such point, neither in the plan nor in the submissions.
    """
    on_disk = [n for n in names(campaign) if n.startswith(text)]
    if len(on_disk) == 1 and not any(p.name.startswith(text) for p in campaign.points):
        return on_disk[0], _settings(campaign, set(on_disk)).get(on_disk[0], {})
    point = find(campaign.points, text)
    shape = {f"resources.{k}": v for k, v in asdict(point.shape).items()}
    return point.name, {**flatten(campaign.base), **flatten_settings(point), **shape}


def flatten_settings(point: Point) -> dict[str, Any]:
    """Return the settings of a point by dotted key, including those in tables."""
    return _flat(point.settings.items())


def _flat(settings: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for key, value in settings:
        put(table, key, value)
    return flatten(table)


def _differences(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    keys = [k for k in dict.fromkeys([*then, *now]) if then.get(k) != now.get(k)]
    return [f"{k} was {_value(then, k)}, is {_value(now, k)}" for k in keys]


def _value(table: dict[str, Any], key: str) -> str:
    return shown(table[key]) if key in table else "not set"


def _settings(campaign: Campaign, wanted: set[str]) -> dict[str, dict[str, Any]]:
    """Return the configuration of points by name, from the tables of their submissions."""
    store = Store(campaign.folder)
    found: dict[str, dict[str, Any]] = {}
    for submission in reversed(store.load().submissions):
        folder = store.submission(submission.number)
        base: dict[str, Any] | None = None
        for record in submission.jobs:
            try:
                lines = (folder / record.table).read_text("utf-8").splitlines()
                if base is None:
                    base = flatten(tomllib.loads((folder / "base.toml").read_text("utf-8")))
            except (OSError, ValueError):
                continue
            for line in lines:
                name, *fields = line.split("\t")
                if name in wanted and name not in found:
                    found[name] = {**base, **_parsed(fields)}
    return found


def _parsed(fields: Sequence[str]) -> dict[str, Any]:
    settings = []
    for field in fields:
        with suppress(UsageError):
            keys, value = parse_override(field)
            settings.append((join_key(keys), value))
    return _flat(settings)


def elsewhere(campaign: Campaign, missing: Sequence[Point]) -> dict[Path, int]:
    """Count missing points that sibling folders contain, e.g. after a campaign file was renamed."""
    wanted = {p.name for p in missing}
    found = {}
    try:
        beside = [f for f in campaign.folder.parent.iterdir() if f != campaign.folder]
    except OSError:
        return {}
    for folder in sorted(beside):
        if (folder / "campaign.json").exists():
            count = len(wanted & Store(folder).read_folders())
            if count:
                found[folder] = count
    return found


def adopt(campaign: Campaign, folder: Path) -> list[Point]:
    """Move points from another campaign's folder, or a run's folder, into the campaign.

    Parameters
    ----------
    folder
        Folder of a campaign, whose planned points are moved with their marks; or folder of a run
        with the settings of a planned point.

    Returns
    -------
    list of Point
        The planned points that were moved.

    Raises
    ------
    UsageError
        If the folder is neither of a campaign nor of a run, a job of it is waiting or running, or a
        file cannot be moved.
    """
    store = Store(campaign.folder)
    with store.lock():
        present = store.read_folders() | store.read_marks().keys()
        missing = [p for p in campaign.points if p.name not in present]
        if (folder / "points").is_dir():
            if folder.resolve() == campaign.folder.resolve():
                raise UsageError(f"{folder} is the folder of this campaign")
            with Store(folder).lock():
                return _adopt_campaign(campaign, Store(folder), missing)
        if (folder / "config.toml").is_file():
            return _adopt_run(campaign, folder, missing)
    raise UsageError(f"{folder} is neither the folder of a campaign nor that of a run")


def _adopt_campaign(campaign: Campaign, other: Store, missing: Sequence[Point]) -> list[Point]:
    state = other.load()
    for kind in sorted({s.scheduler for s in state.submissions}):
        jobs = [r.job for s in state.submissions if s.scheduler == kind for r in s.jobs]
        live = make(campaign.site, kind).live([j for j in jobs if j])
        if live or None in jobs:
            what = (
                f"job {min(live)[0]} is waiting or running"
                if live
                else "a submission was interrupted"
            )
            raise UsageError(f"{other.folder}: {what}; cancel it, or wait for its end")
    folders, marks = other.read_folders(), other.read_marks()
    store, moved = Store(campaign.folder), []
    with store.writing():
        store.points.mkdir(parents=True, exist_ok=True)
        store.marks.mkdir(exist_ok=True)
        for point in missing:
            if point.name not in folders:
                continue
            shutil.move(other.points / point.name, store.points / point.name)
            if point.name in marks:
                entry = f"{point.name}.{marks[point.name]}"
                os.replace(other.marks / entry, store.marks / entry)  # noqa: PTH105
            moved.append(point)
    return moved


def _adopt_run(campaign: Campaign, folder: Path, missing: Sequence[Point]) -> list[Point]:
    run = config.load(folder / "config.toml")
    names = Names(campaign)
    for point in missing:
        if names.suits(run, point):
            store = Store(campaign.folder)
            with store.writing():
                store.points.mkdir(parents=True, exist_ok=True)
                shutil.move(folder, store.points / point.name)
            return [point]
    raise UsageError(f"{folder}: no missing point of the campaign has the settings of this run")


def prune(campaign: Campaign, chosen: Sequence[str]) -> None:
    """Remove folders and marks of points that are not in the plan.

    Raises
    ------
    UsageError
        If a point is waiting, running or planned, or cannot be removed.
    """
    store = Store(campaign.folder)
    with store.lock():
        survey = Survey(campaign, mending.mend(campaign, store.load(), store))
        wanted = set(chosen) - {p.name for p in campaign.points}
        for name in sorted(wanted & survey.live.keys()):
            raise UsageError(f"{name} is waiting or running: cancel the campaign first")
        with store.writing():
            for name in sorted(wanted):
                shutil.rmtree(store.points / name, ignore_errors=True)
            for mark in list(store.marks.iterdir()) if store.marks.is_dir() else []:
                if mark.name.split(".")[0] in wanted:
                    mark.unlink(missing_ok=True)
