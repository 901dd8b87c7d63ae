"""Slurm: sbatch, squeue, sacct, scancel."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from hpcsamp.campaign.render import Job
from hpcsamp.campaign.schedulers.base import Element, Limits, Live, Scheduler, SchedulerError
from hpcsamp.config import seconds

_RUNNING = {"RUNNING", "CONFIGURING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT"}
_QUEUED = {"PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD"}
_LIVE = _RUNNING | _QUEUED | {"COMPLETING"}


class Slurm(Scheduler):
    """Slurm, used through its commands."""

    suffix = "sbatch"
    template = '{% extends "slurm.j2" %}'

    def limits(self) -> Limits:
        """Read MaxArraySize from ``scontrol``, and the limits of partitions from ``sinfo``."""
        config = self.ask("scontrol", "show", "config")
        match = re.search(r"^MaxArraySize\s*=\s*(\d+)", config, re.MULTILINE)
        array = int(match[1]) if match else 1001  # Slurm's default
        minutes: dict[str, float] = {}
        nodes: dict[str, int] = {}
        default = ""
        for line in self.ask("sinfo", "-h", "-o", "%P|%l|%D").splitlines():
            name, limit, count = line.strip().split("|")
            if name.endswith("*"):
                name = default = name[:-1]
            minutes[name] = math.inf if limit in ("infinite", "n/a") else seconds(limit) / 60
            nodes[name] = nodes.get(name, 0) + int(count)
        return Limits(self.site.max_array or array, minutes, default, nodes)

    def submit(self, jobs: Sequence[Job], folder: Path, taken: Callable[[Job, str], None]) -> None:
        """Submit each array with ``sbatch``."""
        for job in jobs:
            out = self.ask("sbatch", "--parsable", str(folder / job.script))
            number = out.strip().splitlines()[-1].split(";")[0] if out.strip() else ""
            if not number.isdigit():
                raise SchedulerError(f"sbatch returned {out.strip()!r} in place of a job number")
            taken(job, number)

    def live(self, jobs: Sequence[str]) -> dict[Element, Live]:
        """Read the user's jobs from ``squeue``, which fails if asked for a job that has ended."""
        wanted = set(jobs)
        found: dict[Element, Live] = {}
        for line in self.ask("squeue", "--me", "-h", "-r", "-o", "%F|%K|%T").splitlines():
            job, index, state = line.strip().split("|")
            if job not in wanted or not index.isdigit():
                continue
            if state in _RUNNING:
                found[job, int(index)] = "running"
            elif state in _QUEUED:
                found[job, int(index)] = "queued"
        return found

    def ended(self, jobs: Sequence[str]) -> dict[Element, str]:
        """Read end states from ``sacct``, or without accounting from ``scontrol``."""
        if not jobs:
            return {}
        try:
            out = self.ask("sacct", "-n", "-X", "-P", "-j", ",".join(jobs), "-o", "JobID,State")
            return dict(_sacct(out))
        except SchedulerError:
            pass
        found: dict[Element, str] = {}
        for job in jobs:
            try:
                out = self.ask("scontrol", "-o", "show", "job", job)
            except SchedulerError:  # Slurm no longer knows the job
                continue
            for line in out.splitlines():
                facts = dict(re.findall(r"(\S+?)=(\S*)", line))
                if facts.get("ArrayTaskId", "").isdigit() and facts["JobState"] not in _LIVE:
                    found[job, int(facts["ArrayTaskId"])] = facts["JobState"]
        return found

    def find(self, name: str, script: Path) -> str | None:
        """Find a job by its name with ``squeue``."""
        found = self.ask("squeue", "--me", "-h", "-o", "%F", "--name", name).split()
        return found[0] if found else None

    def cancel(self, jobs: Sequence[str]) -> None:
        """Cancel jobs with ``scancel``."""
        if jobs:
            self.ask("scancel", *jobs)


def _sacct(text: str) -> list[tuple[Element, str]]:
    found = []
    for line in text.splitlines():
        match = re.fullmatch(r"(\d+)_(\d+)\|(\w+).*", line.strip())
        if match:
            found.append(((match[1], int(match[2])), match[3]))
    return found
