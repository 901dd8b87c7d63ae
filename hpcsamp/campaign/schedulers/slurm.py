"""Slurm: sbatch, squeue, sacct, scancel."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from hpcsamp.campaign.render import MARK, Job
from hpcsamp.campaign.schedulers.base import (
    Element,
    Limits,
    Live,
    Scheduler,
    SchedulerError,
    Seen,
    dependency,
)
from hpcsamp.campaign.schedulers.usage import SACCT, Used, of_sacct
from hpcsamp.config import seconds

#: States in which a job has ended for good, and in which it waits. In any other state, even one
#: that a later version of Slurm adds, a job counts as running, so that nothing is started twice.
_ENDED = {
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "DEADLINE",
    "FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PREEMPTED",
    "TIMEOUT",
}
_QUEUED = {
    "LAUNCH_FAILED",
    "PENDING",
    "POWER_UP_NODE",
    "RECONFIG_FAIL",
    "REQUEUED",
    "REQUEUE_FED",
    "REQUEUE_HOLD",
    "RESV_DEL_HOLD",
    "SPECIAL_EXIT",
}


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
        cpus: dict[str, int] = {}
        memory: dict[str, int] = {}
        default = ""
        for line in self.ask("sinfo", "-h", "-o", "%P|%l|%D|%c|%m").splitlines():
            name, limit, count, *of_node = line.strip().split("|")
            if name.endswith("*"):
                name = default = name[:-1]
            minutes[name] = math.inf if limit in ("infinite", "n/a") else seconds(limit) / 60
            nodes[name] = nodes.get(name, 0) + int(count)
            for most, text in zip((cpus, memory), of_node, strict=False):
                if number := re.match(r"\d+", text):  # 128+: at least
                    most[name] = max(most.get(name, 0), int(number[0]))
        return Limits(self.site.max_array or array, minutes, default, nodes, cpus, memory)

    def submit(
        self,
        jobs: Sequence[Job],
        folder: Path,
        taken: Callable[[Job, str], None],
        after: Sequence[str] = (),
    ) -> None:
        """Submit each array with ``sbatch``."""
        before = list(after)
        for job in jobs:
            parts = dependency(job, before, corresponding=True)
            wait = [f"--dependency={parts}"] if parts else []
            wait += ["--kill-on-invalid-dep=yes"] if any(job.needs) else []  # not to wait for ever
            out = self.ask("sbatch", "--parsable", *wait, str(folder / job.script))
            number = out.strip().splitlines()[-1].split(";")[0] if out.strip() else ""
            if not number.isdigit():
                raise SchedulerError(f"sbatch returned {out.strip()!r} in place of a job number")
            taken(job, number)
            before = [number] if self.site.at_once else []

    def live(self, jobs: Sequence[str]) -> dict[Element, Live]:
        """Return the waiting or running elements."""
        return {element: seen.word for element, seen in self.look(jobs).items()}

    def look(self, jobs: Sequence[str]) -> dict[Element, Seen]:
        """Read the states of jobs of any user from ``squeue``."""
        found: dict[Element, Seen] = {}
        wanted = set(jobs)
        for line in self._queue(list(jobs)).splitlines():
            job, index, state, reason = [*line.strip().split("|", 3), "", "", ""][:4]
            if job not in wanted or state in _ENDED:
                continue
            element = (job, int(index) if index.isdigit() else 0)
            if state in _QUEUED:
                found[element] = Seen("queued", "" if reason == "None" else reason)
            else:
                found[element] = Seen("running")
        return found

    def _queue(self, jobs: list[str]) -> str:
        """Query ``squeue`` for jobs; it fails for a single job that it no longer knows."""
        if not jobs:
            return ""
        try:
            return self.ask(
                "squeue", "-h", "-r", "-t", "all", "-j", ",".join(jobs), "-o", "%F|%K|%T|%r"
            )
        except SchedulerError as e:
            if "Invalid job id" not in str(e):
                raise
        return "".join(self._queue([job]) for job in jobs) if len(jobs) > 1 else ""

    def ended(self, jobs: Sequence[str]) -> dict[Element, str]:
        """Read the final states from ``sacct``, or from ``scontrol`` without accounting."""
        if not jobs:
            return {}
        try:
            out = self.ask("sacct", "-n", "-X", "-P", "-j", ",".join(jobs), "-o", "JobID,State")
            return {e: state for e, state in _sacct(out) if state in _ENDED}
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
                if facts.get("ArrayTaskId", "").isdigit() and facts.get("JobState") in _ENDED:
                    found[job, int(facts["ArrayTaskId"])] = facts["JobState"]
        return found

    def used(self, jobs: Sequence[str]) -> dict[Element, Used]:
        """Read times, memory and energy of all starts from ``sacct``; empty without accounting."""
        if not jobs:
            return {}
        try:
            return of_sacct(self.ask("sacct", "-n", "-P", "-D", "-j", ",".join(jobs), "-o", SACCT))
        except SchedulerError:  # many clusters of a single group have no accounting
            return {}

    def find(self, name: str, script: Path, identity: str = "") -> str | None:
        """Find a job of any user with ``squeue`` by the identity in its comment.

        A job without one, because a line of the header has another comment, is found by its script.
        """
        out = self.ask("squeue", "-h", "--name", name, "-o", "%F|%o|%k")
        for line in out.splitlines():
            job, command, comment = [*line.strip().split("|", 2), "", ""][:3]
            words = comment.split()
            marked = any(w.startswith(MARK) for w in words)
            if f"{MARK}{identity}" in words or (not marked and command == str(script)):
                return job
        return None

    def cancel(self, jobs: Sequence[str]) -> None:
        """Cancel jobs with ``scancel``."""
        if jobs:
            self.ask("scancel", *jobs)

    def cancel_elements(self, elements: Sequence[Element]) -> None:
        """Cancel elements of arrays with ``scancel``."""
        self.cancel([f"{job}_{index}" for job, index in elements])


def _sacct(text: str) -> list[tuple[Element, str]]:
    found = []
    for line in text.splitlines():
        match = re.fullmatch(r"(\d+)_(\d+)\|(\w+).*", line.strip())
        if match:
            found.append(((match[1], int(match[2])), match[3]))
    return found
