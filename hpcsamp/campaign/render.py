"""Job scripts: one array per resource shape, as plain bash that people read, edit and run by hand.

Deterministic: the same points give the same text, so that two renderings can be compared.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import tomli_w

from hpcsamp.campaign import lines
from hpcsamp.campaign.placeholders import fill
from hpcsamp.campaign.points import Campaign, Point
from hpcsamp.campaign.resources import Shape
from hpcsamp.campaign.site import LAUNCHERS, Site
from hpcsamp.config import toml_value
from hpcsamp.errors import UsageError
from hpcsamp.names import SCHEDULERS
from hpcsamp.spelling import shown


@dataclass(frozen=True)
class Job:
    """A job array: a script and the table that it reads.

    Attributes
    ----------
    script, table
        File names in the folder of the submission.
    shape
        Resources of each point.
    points
        In the order of the table's lines.
    """

    script: str
    table: str
    shape: Shape
    points: tuple[Point, ...]


def arrays(points: Sequence[Point], site: Site, largest: int) -> list[Job]:
    """Job arrays for some points: by resource shape, cut where an array would be too large.

    Parameters
    ----------
    largest
        Most points of an array; 0: no limit.
    """
    by_shape: dict[Shape, list[Point]] = {}
    for point in points:
        by_shape.setdefault(point.shape, []).append(point)
    suffix = SCHEDULERS.find(site.scheduler).suffix
    jobs: list[Job] = []
    for shape, members in sorted(by_shape.items()):
        size = largest or len(members)
        for first in range(0, len(members), size):
            number = f"{len(jobs):02d}"
            jobs.append(
                Job(
                    script=f"job-{number}.{suffix}",
                    table=f"points-{number}.tsv",
                    shape=shape,
                    points=tuple(members[first : first + size]),
                )
            )
    return jobs


def files(campaign: Campaign, jobs: Sequence[Job], submission: Path) -> dict[str, str]:
    """Text of every file of a submission, by name.

    Parameters
    ----------
    submission
        Absolute path of the folder that they will lie in.
    """
    texts = {"base.toml": tomli_w.dumps(campaign.base)}
    for job in jobs:
        texts[job.table] = table(job.points)
        texts[job.script] = script(campaign, job, submission)
    return texts


def table(points: Sequence[Point]) -> str:
    """One line a point: its name, and ``KEY=VALUE`` of every setting, between tabs."""
    lines = []
    for point in points:
        fields = [f"{k}={toml_value(v)}" for k, v in point.settings.items()]
        lines.append("\t".join([point.name, *fields]))
    return "\n".join(lines) + "\n"


def script(campaign: Campaign, job: Job, submission: Path, folder: Path | None = None) -> str:
    """Text of a job script."""
    site, shape = campaign.site, job.shape
    facts: dict[str, Any] = {
        "ranks": shape.ranks,
        "nodes": shape.nodes,
        "ranks_per_node": shape.ranks_per_node,
        "cores": shape.cores,
        "gpus": shape.gpus,
        "memory": shape.memory,
        "time": shape.time,
        "minutes": shape.minutes,
        "cpus_per_core": site.cpus_per_core,
    }
    launch = site.launch
    if launch == LAUNCHERS["mpirun"] and shape.ranks == 1:
        launch = ""  # alone; and mpirun is often not there on a laptop
    env = site.environment(campaign.root)
    scheduler = SCHEDULERS.find(site.scheduler)
    if scheduler.reads_header:
        lines.path_in_header(submission)
    facts_of_job: dict[str, Any] = dict(
        **facts,
        campaign=campaign.spec.name,
        job_name=job_name(campaign.spec.name, submission, job.script),
        count=len(job.points),
        shape=shape.describe(),
        script=job.script,
        table=job.table,
        log=log_stem(job.script),
        folder=str(folder or campaign.folder),
        submission=str(submission),
        root=str(campaign.root),
        header=_filled(site.header, facts, "header", lines.comment),
        before_modules=fill(site.before_modules, facts, "before_modules"),
        env=str(env) if env else "",
        modules=site.modules,
        setup=fill(site.setup, facts, "setup"),
        launch=fill([launch], facts, "launcher")[0],
        # srun's steps are sent signals by Slurm itself; otherwise the batch shell hands them on
        steps_get_signals=launch.split()[:1] == ["srun"],
        commands=campaign.spec.shell(),
        products=campaign.spec.files(),
        gpu_option=_filled([site.gpu_option], facts, "gpu_option", lines.option)[0]
        if shape.gpus
        else "",
        chunk=_filled([site.chunk], facts, "chunk", lines.word)[0],
        partition=site.partition,
        account=site.account,
        qos=site.qos,
        at_once=site.at_once,
        signal=site.signal,
        requeue=site.requeue,
    )
    try:
        return _environment().from_string(scheduler.template).render(**facts_of_job)
    except jinja2.TemplateError as e:
        raise UsageError(f"site.scheduler = {site.scheduler!r}: its template: {e}") from e


def _filled(
    texts: Sequence[str], facts: dict[str, Any], where: str, check: Callable[[str], str]
) -> list[str]:
    """Lines with numbers put in, which are still what they have to be."""
    filled = fill(texts, facts, where)
    try:
        return [check(text) for text in filled]
    except ValueError as e:
        raise UsageError(f"site.{where} = {shown(filled)}: {e}") from None


def job_name(campaign: str, submission: Path, script: str) -> str:
    """Name of a job, by which it is found again: e.g. ``sweep-0002-00``."""
    return f"{campaign}-{submission.name}-{script.split('.')[0].removeprefix('job-')}"


def log_stem(script: str) -> str:
    """Logs of ``job-00.sbatch`` are ``log-00-0.txt``, ``log-00-1.txt`` ..."""
    return script.split(".")[0].replace("job-", "log-")


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("hpcsamp.campaign"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    environment.filters["sh"] = shlex.quote
    return environment
