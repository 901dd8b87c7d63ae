"""What campaigns ask of a scheduler."""

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
    """The scheduler answered with an error, or not at all."""


@dataclass(frozen=True)
class Limits:
    """What the scheduler allows.

    Attributes
    ----------
    array
        Most elements of an array; 0: no limit.
    minutes
        Longest time by partition, infinite where there is no limit; empty: not known.
    default
        The partition of jobs that name none.
    nodes
        Most nodes of a job by partition; empty: not known.
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
        Where it runs.
    """

    #: What a partition is called there.
    partition_word: ClassVar[str] = "partition"
    #: How the names of its job scripts end.
    suffix: ClassVar[str] = "sh"
    #: Its job scripts: a Jinja template that extends ``job.sh.j2`` and fills its blocks.
    template: ClassVar[str] = '{% extends "job.sh.j2" %}'
    #: Whether it reads the header of a script itself, so that paths there are restricted.
    reads_header: ClassVar[bool] = True

    def __init__(self, site: Site) -> None:
        self.site = site

    @abstractmethod
    def limits(self) -> Limits:
        """What the scheduler allows."""

    @abstractmethod
    def submit(self, jobs: Sequence[Job], folder: Path, taken: Callable[[Job, str], None]) -> None:
        """Hand job arrays over.

        Parameters
        ----------
        jobs
            Their scripts lie in ``folder``.
        folder
            Folder of the submission.
        taken
            Called with each job and its identifier as soon as the scheduler has it.

        Raises
        ------
        SchedulerError
            If it does not take one; those before are running.
        """

    @abstractmethod
    def live(self, jobs: Sequence[str]) -> dict[Element, Live]:
        """Elements of these jobs that wait or run."""

    def ended(self, jobs: Sequence[str]) -> dict[Element, str]:
        """Why elements ended, in the scheduler's words, e.g. ``TIMEOUT``; what is still known."""
        return {}

    def find(self, name: str, script: Path) -> str | None:
        """The identifier of a job that waits or runs, by its name or script; None if there is none.

        For submissions that were killed before they could note what the scheduler answered.
        """
        return None

    @abstractmethod
    def cancel(self, jobs: Sequence[str]) -> None:
        """End these jobs."""

    # For those that are programs --------------------------------------------------------------

    def ask(self, *command: str) -> str:
        """Standard output of one of the scheduler's commands.

        Raises
        ------
        SchedulerError
            One line: if it is not there, fails, or does not answer in time.
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
            said = " ".join((done.stderr or done.stdout).split()) or "it said nothing"
            raise SchedulerError(f"{command[0]} failed with {done.returncode}: {said}")
        return done.stdout


def clean(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment without what would change a submission silently, or make MPI believe that
    it is a rank.
    """
    foreign = ("SBATCH_", "OMPI_COMM", "PMIX_", "PMI_", "OPAL_")
    return {k: v for k, v in environment.items() if not k.startswith(foreign)}


def check_limits(jobs: Sequence[Job], site: Site, limits: Limits, word: str) -> None:
    """Refuse what the scheduler would, before anything is submitted.

    Raises
    ------
    UsageError
        For a partition that does not exist, or a time or nodes that it does not allow.
    """
    if not limits.minutes:
        return
    allowed = ", ".join(f"{n} {_minutes(m)}" for n, m in limits.minutes.items())
    if site.partition and site.partition not in limits.minutes:
        raise UsageError(
            f'site.partition = "{site.partition}": there is no such {word}; there are '
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
