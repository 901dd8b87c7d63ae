"""Render job scripts in plain bash, one job array per set of equal resources.

Scripts can be read, edited or run by hand. Rendering is deterministic: the same points give the
same text, so that renderings can be compared.
"""

from __future__ import annotations

import hashlib
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
from hpcsamp.campaign.point import Point
from hpcsamp.campaign.points import Campaign
from hpcsamp.campaign.resources import Shape
from hpcsamp.campaign.site import LAUNCHERS, Site
from hpcsamp.campaign.spec import TRAIN
from hpcsamp.config import toml_value
from hpcsamp.errors import UsageError
from hpcsamp.names import SCHEDULERS
from hpcsamp.serving.server import READY
from hpcsamp.spelling import shown

MARK = "hpcsamp:"
"""Prefix of a job's identity in its Slurm comment."""

VARIABLE = "HPCSAMP_JOB"
"""Environment variable with a job's identity, which PBS reports."""


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
        Points in the order of the lines of the table.
    needs
        For each point, the elements of other jobs that must succeed before.
    """

    script: str
    table: str
    shape: Shape
    points: tuple[Point, ...]
    needs: tuple[tuple[tuple[str, int], ...], ...] = ()

    @property
    def elements(self) -> int:
        """Number of elements of the array, each of which runs ``points_per_job`` points."""
        return -(-len(self.points) // self.shape.points_per_job)


def arrays(points: Sequence[Point], site: Site, largest: int) -> list[Job]:
    """Group points into job arrays by resource shape, and split arrays that are too large.

    Parameters
    ----------
    largest
        Largest number of elements of an array; 0: no limit.
    """
    by_shape: dict[Shape, list[Point]] = {}
    for point in points:
        by_shape.setdefault(point.shape, []).append(point)
    suffix = SCHEDULERS.find(site.scheduler).suffix
    jobs: list[Job] = []
    for shape, members in sorted(by_shape.items()):
        size = largest * shape.points_per_job or len(members)
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
    """Render all files of a submission; return their texts by name.

    Parameters
    ----------
    submission
        Absolute path of the folder that will hold the files.
    """
    texts = {"base.toml": tomli_w.dumps(campaign.base)}
    for job in jobs:
        texts[job.table] = table(job.points)
        texts[job.script] = script(campaign, job, submission)
    if campaign.after:
        for name, need in campaign.needs.items():
            texts[f"{name}.txt"] = "".join(f"{need.folder}/points/{p.name}\n" for p in need.points)
    return texts


def table(points: Sequence[Point]) -> str:
    """Write one line per point: its name and ``KEY=VALUE`` of each setting, separated by tabs."""
    lines = []
    for point in points:
        fields = [f"{k}={toml_value(v)}" for k, v in point.settings.items()]
        lines.append("\t".join([point.name, *fields]))
    return "\n".join(lines) + "\n"


def script(campaign: Campaign, job: Job, submission: Path, folder: Path | None = None) -> str:
    """Render a job script."""
    site, shape = campaign.site, job.shape
    facts: dict[str, Any] = {
        "ranks": shape.ranks,
        "nodes": shape.nodes,
        "ranks_per_node": shape.ranks_per_node,
        "cores": shape.cores,
        "gpus": shape.gpus,
        "memory": shape.memory,
        "time": shape.job_time,
        "minutes": shape.minutes,
        "cpus_per_core": site.cpus_per_core,
    }
    launch = site.launch
    if launch == LAUNCHERS["mpirun"] and shape.ranks == 1:
        launch = ""  # one process needs no mpirun, which a laptop may not have
    env = site.environment(campaign.root)
    scheduler = SCHEDULERS.find(site.scheduler)
    if scheduler.reads_header:
        lines.path_in_header(submission)
    facts_of_job: dict[str, Any] = dict(
        **facts,
        campaign=campaign.spec.name,
        job_name=job_name(campaign.spec.name, submission, job.script),
        comment=f"{MARK}{identity(submission, job)}",
        variable=f"{VARIABLE}={identity(submission, job)}",
        count=len(job.points),
        elements=job.elements,
        pack=shape.points_per_job,
        shape=shape.describe(),
        script=job.script,
        table=job.table,
        log=log_stem(job.script),
        log_of_job=job_log_stem(job.script, shape.points_per_job),
        folder=str(folder or campaign.folder),
        submission=str(submission),
        submission_name=submission.name,
        root=str(campaign.root),
        header=_filled(site.header, facts, "header", lines.comment),
        before_modules=fill(site.before_modules, facts, "before_modules"),
        env=str(env) if env else "",
        modules=site.modules,
        setup=fill(site.setup, facts, "setup"),
        launch=fill([launch], facts, "launcher")[0],
        # Slurm sends signals to steps of srun itself; otherwise the batch shell forwards them
        steps_get_signals=launch.split()[:1] == ["srun"],
        commands=campaign.spec.shell(),
        served=_served(campaign, shape, launch),
        ready=READY,
        train="" if campaign.spec.commands else TRAIN,
        products=campaign.spec.files(),
        planned=campaign.spec.planned(),
        retries=campaign.spec.retries,
        file=str(campaign.file.resolve()),
        every=bool(campaign.after),
        needs={n: (str(c.folder), c.spec.files()) for n, c in campaign.needs.items()},
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
        raise UsageError(f"site.scheduler = {site.scheduler!r}: template error: {e}") from e


def _served(campaign: Campaign, shape: Shape, launch: str) -> bool:
    """Whether the commands of several points of one rank are forked from one process."""
    ours = any("hpcsamp " in line for line in campaign.spec.shell())
    return shape.points_per_job > 1 and not launch and ours


def _filled(
    texts: Sequence[str], facts: dict[str, Any], where: str, check: Callable[[str], str]
) -> list[str]:
    """Fill in placeholders and check that the resulting lines are still valid."""
    filled = fill(texts, facts, where)
    try:
        return [check(text) for text in filled]
    except ValueError as e:
        raise UsageError(f"site.{where} = {shown(filled)}: {e}") from None


def job_name(campaign: str, submission: Path, script: str) -> str:
    """Return the name of a job, e.g. ``sweep-0002-00``; see :func:`identity`."""
    return f"{campaign}-{submission.name}-{script.split('.')[0].removeprefix('job-')}"


def identity(submission: Path, job: Job) -> str:
    """Return a hash of the folder of a submission, the script and its points.

    The scheduler stores it with the job. The name of a job does not identify it: campaigns in
    several folders may have the same name, and a folder may be removed and used again.
    """
    facts = [str(submission), job.script, *(p.name for p in job.points)]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16]


def log_stem(script: str) -> str:
    """Return the stem of log names: logs of ``job-00.sbatch`` are ``log-00-0.txt`` ..."""
    return script.split(".")[0].replace("job-", "log-")


def job_log_stem(script: str, points_per_job: int) -> str:
    """Return the stem of the logs of jobs: those of their points, unless there are several."""
    return script.split(".")[0].replace("job-", "pack-") if points_per_job > 1 else log_stem(script)


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
