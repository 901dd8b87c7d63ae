"""Base class of the schedulers of campaigns."""

from __future__ import annotations

import os
import shutil
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

from hpcsamp.campaign.render import Job
from hpcsamp.campaign.resources import Shape
from hpcsamp.campaign.schedulers.usage import Used
from hpcsamp.campaign.site import Site
from hpcsamp.errors import HpcsampError, UsageError

#: ``(job, index)``: one element of a job array.
Element = tuple[str, int]
Live = Literal["queued", "running"]


class Seen(NamedTuple):
    """State of a waiting or running array element in the scheduler.

    Attributes
    ----------
    word
        Whether it is waiting or running; an element in an unknown state counts as running.
    why
        The scheduler's reason why it is waiting; empty if it is running or there is no reason.
    """

    word: Live
    why: str = ""


class SchedulerError(HpcsampError):
    """Raised if a scheduler returns an error or does not answer."""


@dataclass(frozen=True)
class Limits:
    """Limits of a scheduler.

    Attributes
    ----------
    array
        Largest number of elements of an array; 0: no limit.
    minutes
        Time limits by partition in minutes, infinite for no limit; empty if unknown.
    default
        Partition of jobs that do not name one.
    nodes
        Largest number of nodes of a job by partition; empty if unknown.
    cpus, memory
        CPUs, and memory in MiB, of the largest node by partition; empty if unknown.
    """

    array: int
    minutes: Mapping[str, float]
    default: str = ""
    nodes: Mapping[str, int] | None = None
    cpus: Mapping[str, int] | None = None
    memory: Mapping[str, int] | None = None


class Scheduler(ABC):
    """Interface to a scheduler such as Slurm; one subclass per scheduler.

    Parameters
    ----------
    site
        Site of the scheduler.
    """

    #: The scheduler's term for a partition.
    partition_word: ClassVar[str] = "partition"
    #: File name suffix of job scripts.
    suffix: ClassVar[str] = "sh"
    #: Jinja template of job scripts, which extends ``job.sh.j2`` and fills its blocks.
    template: ClassVar[str] = '{% extends "job.sh.j2" %}'
    #: Whether the scheduler parses the header of a script, which restricts the paths there.
    reads_header: ClassVar[bool] = True

    def __init__(self, site: Site) -> None:
        self.site = site

    @abstractmethod
    def limits(self) -> Limits:
        """Return the limits of the scheduler."""

    @abstractmethod
    def submit(
        self,
        jobs: Sequence[Job],
        folder: Path,
        taken: Callable[[Job, str], None],
        after: Sequence[str] = (),
    ) -> None:
        """Submit job arrays.

        Parameters
        ----------
        jobs
            Job arrays, whose scripts are in ``folder``.
        folder
            Folder of the submission.
        taken
            Called with each job and its identifier as soon as the scheduler has accepted it.
        after
            Jobs of earlier submissions that must end first. Used if ``site.at_once`` is set; the
            arrays of this submission then also follow each other, so that the limit, which
            schedulers apply to each array, holds for the campaign.

        Raises
        ------
        SchedulerError
            If the scheduler refuses a job; earlier jobs of the list remain submitted.
        """

    @abstractmethod
    def live(self, jobs: Sequence[str]) -> dict[Element, Live]:
        """Return the waiting or running elements of the given jobs."""

    def look(self, jobs: Sequence[str]) -> dict[Element, Seen]:
        """Return the waiting or running elements of the given jobs, and why they are waiting."""
        return {element: Seen(word) for element, word in self.live(jobs).items()}

    def ended(self, jobs: Sequence[str]) -> dict[Element, str]:
        """Return why elements ended, e.g. ``TIMEOUT``, if the scheduler still knows."""
        return {}

    def used(self, jobs: Sequence[str]) -> dict[Element, Used]:
        """Return the resources used by elements, where the scheduler records them."""
        return {}

    def find(self, name: str, script: Path, identity: str = "") -> str | None:
        """Find a waiting or running job of any user; return its identifier or None.

        Needed after a submission was killed before it could record the scheduler's answer.

        Parameters
        ----------
        name
            Name of the job, which jobs of other campaigns may also have.
        script
            Path of its script.
        identity
            Its :func:`~hpcsamp.campaign.render.identity`; empty for jobs of earlier versions, which
            are found by name and script.
        """
        return None

    @abstractmethod
    def cancel(self, jobs: Sequence[str]) -> None:
        """Cancel the given jobs."""

    def cancel_elements(self, elements: Sequence[Element]) -> None:
        """Cancel the given elements of jobs.

        Raises
        ------
        SchedulerError
            If the scheduler can only cancel whole jobs.
        """
        raise SchedulerError(f"{type(self).__name__} cannot cancel single points of a job")

    # For schedulers with command-line programs -------------------------------------------------

    def ask(self, *command: str) -> str:
        """Run a command of the scheduler and return its standard output.

        Raises
        ------
        SchedulerError
            If the command does not exist, fails, or does not answer in time.
        """
        program = shutil.which(command[0])
        if program is None:
            raise SchedulerError(
                f"{command[0]} was not found: is this a machine with {self.site.scheduler}?"
            )
        try:
            done = subprocess.run(
                [program, *command[1:]],
                capture_output=True,
                text=True,
                errors="replace",
                timeout=self.site.timeout,
                stdin=subprocess.DEVNULL,
                env=clean(os.environ),
            )
        except subprocess.TimeoutExpired:
            raise SchedulerError(
                f"{command[0]} did not answer within {self.site.timeout:g} s (site.timeout)"
            ) from None
        except OSError as e:
            raise SchedulerError(f"{command[0]} could not be started: {e.strerror}") from None
        if done.returncode:
            message = " ".join((done.stderr or done.stdout).split()) or "no message"
            raise SchedulerError(f"{command[0]} failed with exit code {done.returncode}: {message}")
        return done.stdout


def dependency(job: Job, before: Sequence[str], corresponding: bool = False) -> str:
    """Return the dependencies of a job as Slurm and PBS write them; empty if there are none.

    Parameters
    ----------
    before
        Jobs that must end first, in whatever way.
    corresponding
        Whether an element may wait for the element of the same index alone (``aftercorr``).
    """
    parts = [f"afterany:{':'.join(before)}"] if before else []
    needed = sorted({of for elements in job.needs for of, _ in elements})
    if needed:
        pack = job.shape.points_per_job
        same = all(
            elements == ((needed[0], line // pack),) for line, elements in enumerate(job.needs)
        )
        kind = "aftercorr" if corresponding and same else "afterok"
        parts.append(f"{kind}:{':'.join(needed)}")
    return ",".join(parts)


def clean(environment: Mapping[str, str]) -> dict[str, str]:
    """Remove variables that would change commands silently or start MPI as a rank.

    ``SQUEUE_USERS``, for example, hides the jobs of colleagues, which would be submitted again.
    """
    slurm = ("SBATCH_", "SQUEUE_", "SACCT_", "SCANCEL_", "SINFO_", "SCONTROL_")
    foreign = (*slurm, "OMPI_COMM", "PMIX_", "PMI_", "OPAL_")
    return {k: v for k, v in environment.items() if not k.startswith(foreign)}


def check_limits(shapes: Iterable[Shape], site: Site, limits: Limits, word: str) -> None:
    """Check resources against the limits of the scheduler before anything is submitted.

    Raises
    ------
    UsageError
        If a partition does not exist, or none of those named allows the time, the number of nodes,
        or the CPUs and memory of a node.
    """
    if not limits.minutes:
        return
    allowed = ", ".join(f"{n} {_minutes(m)}" for n, m in limits.minutes.items())
    names = [n.split("@")[0] for n in site.partition.split(",") if n]  # PBS: queue@server
    for name in names:
        if name not in limits.minutes:
            raise UsageError(
                f'site.partition = "{site.partition}": there is no {word} {name}; choose from '
                f"{', '.join(limits.minutes)}"
            )
    names = names or [n for n in [limits.default] if n in limits.minutes]
    longest = max(limits.minutes.values())
    for shape in shapes:
        if shape.job_minutes > longest:
            raise UsageError(f"{_asked(shape)}: no {word} allows this time limit ({allowed})")
        # of several partitions, a job needs one that allows all its resources
        faults = [_fault(shape, site, limits, name, word) for name in names]
        if faults and all(faults):
            raise UsageError(f"{'; '.join(dict.fromkeys(faults))} ({allowed})")


def _fault(shape: Shape, site: Site, limits: Limits, name: str, word: str) -> str:
    """Return the reasons why a partition does not allow the resources; empty if it does."""
    if shape.job_minutes > limits.minutes[name]:
        here = _minutes(limits.minutes[name])
        return f"{_asked(shape)}: {word} {name} allows {here}"
    most = (limits.nodes or {}).get(name)
    if most is not None and shape.nodes > most:
        return f"resources.nodes = {shape.nodes}: {word} {name} has {most}"
    needed = shape.ranks_per_node * shape.cores * site.cpus_per_core
    most = (limits.cpus or {}).get(name)
    if most is not None and needed > most:
        return (
            f"resources: {shape.ranks_per_node} ranks_per_node with {shape.cores} cores each need "
            f"{needed} CPUs, but the nodes of {word} {name} have at most {most}"
        )
    most = (limits.memory or {}).get(name)
    if most is not None and shape.memory > most:
        return (
            f"resources.memory = {shape.memory} MiB: the nodes of {word} {name} have at most "
            f"{most} MiB"
        )
    return ""


def _asked(shape: Shape) -> str:
    if shape.points_per_job == 1:
        return f"resources.time = {shape.time}"
    return f"resources.time = {shape.time} for {shape.points_per_job} points_per_job"


def _minutes(value: float) -> str:
    if value == float("inf"):
        return "without limit"
    whole = round(value * 60)
    return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}"
