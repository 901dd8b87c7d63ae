"""PBS (OpenPBS, PBS Professional): qsub, qstat, qdel."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hpcsamp.campaign.render import Job
from hpcsamp.campaign.schedulers.base import Element, Limits, Live, Scheduler, SchedulerError
from hpcsamp.config import seconds

_RUNNING, _QUEUED = set("RESU"), set("QHWTM")


class PBS(Scheduler):
    """PBS, used through its commands."""

    partition_word = "queue"
    suffix = "pbs"
    template = '{% extends "pbs.j2" %}'

    def limits(self) -> Limits:
        """Read the limits of the server and of the queues from ``qstat``."""
        server = self._json("-Bf", "Server")
        array, default = 0, ""
        for facts in server.values():
            array = int(facts.get("max_array_size", 0)) or array
            default = facts.get("default_queue", default)
        minutes = {
            name: _limit(facts.get("resources_max", {}).get("walltime"))
            for name, facts in self._json("-Qf", "Queue").items()
        }
        return Limits(self.site.max_array or array or 10000, minutes, default)

    def submit(self, jobs: Sequence[Job], folder: Path, taken: Callable[[Job, str], None]) -> None:
        """Submit each array with ``qsub``; an array of one point is an ordinary job."""
        for job in jobs:
            out = self.ask("qsub", str(folder / job.script)).strip()
            if not re.match(r"\d+(\[\])?(\.|$)", out):
                raise SchedulerError(f"qsub returned {out!r} in place of a job identifier")
            taken(job, out)

    def live(self, jobs: Sequence[str]) -> dict[Element, Live]:
        """Read the states of array elements from ``qstat -t``."""
        return {
            e: "running" if state in _RUNNING else "queued"
            for e, (state, _) in self._elements(jobs).items()
            if state in _RUNNING | _QUEUED
        }

    def ended(self, jobs: Sequence[str]) -> dict[Element, str]:
        """Read exit codes from ``qstat -x``, as long as the server keeps the job history."""
        return {
            e: f"exit status {status}"
            for e, (state, status) in self._elements(jobs).items()
            if state in "FX" and status is not None
        }

    def find(self, name: str, script: Path) -> str | None:
        """Find a job by its name with ``qselect``."""
        found = self.ask("qselect", "-N", name).split()
        return found[0] if found else None

    def cancel(self, jobs: Sequence[str]) -> None:
        """Cancel jobs with ``qdel``."""
        if jobs:
            self.ask("qdel", *jobs)

    def _elements(self, jobs: Sequence[str]) -> dict[Element, tuple[str, int | None]]:
        if not jobs:
            return {}
        wanted = {_number(j): j for j in jobs}
        found: dict[Element, tuple[str, int | None]] = {}
        for name, facts in self._jobs(jobs).items():
            job = wanted.get(_number(name))
            match = re.match(r"\d+\[(\d*)\]", name)
            if job is None or (match and not match[1]):
                continue  # another job, or an array as a whole
            index = int(match[1]) if match else 0
            found[job, index] = (str(facts.get("job_state", "?")), facts.get("Exit_status"))
        return found

    def _jobs(self, jobs: Sequence[str]) -> dict[str, Any]:
        """Read jobs from ``qstat``, without those it no longer knows, for which it would fail."""
        asked = list(jobs)
        while asked:
            try:
                return self._json("-x", "-t", "-f", *asked, "Jobs")
            except SchedulerError as e:
                forgotten = set(re.findall(r"Unknown Job Id:?\s*(\S+)", str(e)))
                kept = [j for j in asked if not forgotten & {j, j.split(".")[0]}]
                if len(kept) == len(asked):
                    raise
                asked = kept
        return {}

    def _json(self, *arguments: str) -> dict[str, Any]:
        *options, part = arguments
        text = self.ask("qstat", "-F", "json", *options)
        try:
            return dict(json.loads(text).get(part, {}))
        except (ValueError, AttributeError, TypeError) as e:
            raise SchedulerError(f"qstat {options[0]} returned invalid JSON: {e}") from None


def _number(job: str) -> str:
    match = re.match(r"\d+", job)
    return match[0] if match else job


def _limit(walltime: Any) -> float:
    return seconds(str(walltime)) / 60 if walltime else math.inf
