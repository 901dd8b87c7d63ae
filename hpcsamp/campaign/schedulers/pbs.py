"""PBS (OpenPBS, PBS Professional): qsub, qstat, qdel."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hpcsamp.campaign.causes import signal_name
from hpcsamp.campaign.render import VARIABLE, Job
from hpcsamp.campaign.schedulers.base import (
    Element,
    Limits,
    Live,
    Scheduler,
    SchedulerError,
    Seen,
    dependency,
)
from hpcsamp.campaign.schedulers.usage import Used
from hpcsamp.config import seconds

#: States in which a job has ended, and in which it waits. In any other state, even an unknown one,
#: a job counts as running, so that nothing is started twice.
_ENDED, _QUEUED = set("FXC"), set("QHWTM")

#: Negative exit codes with which PBS ends a job that exceeds its resources.
_EXCEEDED = {
    -26: "out of virtual memory",
    -27: "out of memory",
    -28: "the limit of CPU time ended it",
    -29: "the time limit ended it",
}


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

    def submit(
        self,
        jobs: Sequence[Job],
        folder: Path,
        taken: Callable[[Job, str], None],
        after: Sequence[str] = (),
    ) -> None:
        """Submit each array with ``qsub``; an array of one point is an ordinary job."""
        before = list(after)
        for job in jobs:
            parts = dependency(job, before)
            wait = ["-W", f"depend={parts}"] if parts else []
            out = self.ask("qsub", *wait, str(folder / job.script)).strip()
            if not re.match(r"\d+(\[\])?(\.|$)", out):
                raise SchedulerError(f"qsub returned {out!r} in place of a job identifier")
            taken(job, out)
            before = [out] if self.site.at_once else []

    def live(self, jobs: Sequence[str]) -> dict[Element, Live]:
        """Return the waiting or running elements."""
        return {element: seen.word for element, seen in self.look(jobs).items()}

    def look(self, jobs: Sequence[str]) -> dict[Element, Seen]:
        """Read the states of array elements, and why they are waiting, from ``qstat -t``."""
        found = {}
        for element, facts in self._elements(jobs).items():
            state = facts.get("job_state", "?")
            if state in _QUEUED:
                found[element] = Seen("queued", " ".join(str(facts.get("comment", "")).split()))
            elif state not in _ENDED:
                found[element] = Seen("running")
        return found

    def ended(self, jobs: Sequence[str]) -> dict[Element, str]:
        """Read exit codes from ``qstat -x``, as long as the server keeps the job history."""
        return {
            element: _exit_status(facts["Exit_status"])
            for element, facts in self._elements(jobs).items()
            if facts.get("job_state") in _ENDED and facts.get("Exit_status") is not None
        }

    def used(self, jobs: Sequence[str]) -> dict[Element, Used]:
        """Read times from ``qstat -x``, as long as the server keeps the job history.

        Elements that were started again are left out, because PBS keeps the use of the last start
        only; so is memory, which PBS measures for a whole job and not for its ranks.
        """
        found = {}
        for element, facts in self._elements(jobs).items():
            used = facts.get("resources_used")
            if isinstance(used, dict) and used.get("walltime") and facts.get("run_count", 1) == 1:
                cpu = _clock(used.get("cput", ""))
                found[element] = Used(_clock(used["walltime"]) or 0.0, cpu or None)
        return found

    def find(self, name: str, script: Path, identity: str = "") -> str | None:
        """Find a job of any user by the identity in its environment.

        A job without one, because a line of the header replaces its variables, is found by its log.
        """
        for job in self.ask("qselect", "-N", name).split():
            for facts in self._jobs([job]).values():
                variables = facts.get("Variable_List", {})
                known = str(variables.get(VARIABLE, "")) if isinstance(variables, dict) else ""
                log = str(facts.get("Output_Path", "")).partition(":")[2]
                if known == identity if known else log.startswith(f"{script.parent}/"):
                    return job
        return None

    def cancel(self, jobs: Sequence[str]) -> None:
        """Cancel jobs with ``qdel``."""
        if jobs:
            self.ask("qdel", *jobs)

    def cancel_elements(self, elements: Sequence[Element]) -> None:
        """Cancel elements of arrays with ``qdel``."""
        self.cancel([job.replace("[]", f"[{index}]") for job, index in elements])

    def _elements(self, jobs: Sequence[str]) -> dict[Element, dict[str, Any]]:
        if not jobs:
            return {}
        wanted = {_number(j): j for j in jobs}
        found: dict[Element, dict[str, Any]] = {}
        for name, facts in self._jobs(jobs).items():
            job = wanted.get(_number(name))
            match = re.match(r"\d+\[(\d*)\]", name)
            if job is None or (match and not match[1]):
                continue  # another job, or an array as a whole
            found[job, int(match[1]) if match else 0] = facts
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


def _exit_status(status: Any) -> str:
    if status in _EXCEEDED:
        return _EXCEEDED[status]
    if isinstance(status, int) and status > 128:  # PBS adds 256 to the number of a signal, bash 128
        name = signal_name(status % 128)
        return f"exit status {status}{f' ({name})' if name else ''}"
    return f"exit status {status}"


def _clock(text: Any) -> float | None:
    """Convert ``HH:MM:SS`` to seconds; None if it has another form."""
    match = re.fullmatch(r"(\d+):(\d+):(\d+)", str(text))
    if not match:
        return None
    hours, minutes, rest = map(int, match.groups())
    return float((hours * 60 + minutes) * 60 + rest)


def _number(job: str) -> str:
    match = re.match(r"\d+", job)
    return match[0] if match else job


def _limit(walltime: Any) -> float:
    return seconds(str(walltime)) / 60 if walltime else math.inf
