"""Base class of the schedulers of campaigns."""

from __future__ import annotations

import os
import shutil
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from hpcsamp.campaign.render import Job
from hpcsamp.campaign.site import Site
from hpcsamp.errors import HpcsampError, UsageError

#: ``(job, index)``: one element of a job array.
Element = tuple[str, int]
Live = Literal["queued", "running"]


class SchedulerError(HpcsampError):
    """Raised if a scheduler answers with an error, or not at all."""


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
    """

    array: int
    minutes: Mapping[str, float]
    default: str = ""
    nodes: Mapping[str, int] | None = None


class Scheduler(ABC):
    """One kind of scheduler.

    Parameters
    ----------
    site
        Site of the scheduler.
    """

    #: The scheduler's word for a partition.
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
    def submit(self, jobs: Sequence[Job], folder: Path, taken: Callable[[Job, str], None]) -> None:
        """Submit job arrays.

        Parameters
        ----------
        jobs
            Job arrays, whose scripts are in ``folder``.
        folder
            Folder of the submission.
        taken
            Called with each job and its identifier as soon as the scheduler has accepted it.

        Raises
        ------
        SchedulerError
            If the scheduler refuses a job; the previous ones are then submitted.
        """

    @abstractmethod
    def live(self, jobs: Sequence[str]) -> dict[Element, Live]:
        """Return the elements of some jobs that wait or run."""

    def ended(self, jobs: Sequence[str]) -> dict[Element, str]:
        """Return why elements ended, e.g. ``TIMEOUT``, as far as the scheduler still knows."""
        return {}

    def find(self, name: str, script: Path) -> str | None:
        """Find a waiting or running job by its name or script; return its identifier or None.

        Needed after a submission was killed before it could record the scheduler's answer.
        """
        return None

    @abstractmethod
    def cancel(self, jobs: Sequence[str]) -> None:
        """Cancel some jobs."""

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
            raise SchedulerError(f"{command[0]} failed with {done.returncode}: {message}")
        return done.stdout


def clean(environment: Mapping[str, str]) -> dict[str, str]:
    """Remove variables that would change a submission silently or start MPI as a rank."""
    foreign = ("SBATCH_", "OMPI_COMM", "PMIX_", "PMI_", "OPAL_")
    return {k: v for k, v in environment.items() if not k.startswith(foreign)}


def check_limits(jobs: Sequence[Job], site: Site, limits: Limits, word: str) -> None:
    """Check jobs against the limits of the scheduler before anything is submitted.

    Raises
    ------
    UsageError
        If the partition does not exist, or does not allow the time or the number of nodes.
    """
    if not limits.minutes:
        return
    allowed = ", ".join(f"{n} {_minutes(m)}" for n, m in limits.minutes.items())
    if site.partition and site.partition not in limits.minutes:
        raise UsageError(
            f'site.partition = "{site.partition}": there is no such {word}; choose from '
            f"{', '.join(limits.minutes)}"
        )
    name = site.partition or limits.default
    here = limits.minutes.get(name, max(limits.minutes.values()))
    for job in jobs:
        longest = max(limits.minutes.values())
        if job.shape.minutes > longest:
            raise UsageError(
                f"resources.time = {job.shape.time}: no {word} allows that long ({allowed})"
            )
        if job.shape.minutes > here:
            raise UsageError(
                f"resources.time = {job.shape.time}: {word} {name} allows {_minutes(here)} "
                f"({allowed})"
            )
        most = (limits.nodes or {}).get(name)
        if most is not None and job.shape.nodes > most:
            raise UsageError(f"resources.nodes = {job.shape.nodes}: {word} {name} has {most}")


def _minutes(value: float) -> str:
    if value == float("inf"):
        return "without limit"
    whole = round(value * 60)
    return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}"
