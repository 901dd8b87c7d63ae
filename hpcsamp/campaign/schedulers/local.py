"""Local scheduler: points run on this machine, as many at the same time as its cores allow.

A background process (:mod:`.runner`) starts the points; it survives the shell and ends with the
last point.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from hpcsamp.campaign.render import Job, log_stem
from hpcsamp.campaign.schedulers.base import (
    Element,
    Limits,
    Live,
    Scheduler,
    SchedulerError,
    clean,
)
from hpcsamp.campaign.schedulers.runner import GRACE, QUEUE, STATE
from hpcsamp.errors import DataError, UsageError
from hpcsamp.files import write_whole
from hpcsamp.processes import started
from hpcsamp.sealing import text


class Local(Scheduler):
    """Points in parallel on this machine. A job's identifier is the path of its script."""

    template = '{% extends "local.j2" %}'
    reads_header = False

    def limits(self) -> Limits:
        """Return no limits."""
        return Limits(0, {})

    def submit(self, jobs: Sequence[Job], folder: Path, taken: Callable[[Job, str], None]) -> None:
        """Start a background runner that starts one point after the other."""
        cores = self.site.cores or len(os.sched_getaffinity(0))
        queue = {
            "cores": cores,
            "at_once": self.site.at_once,
            "arrays": [
                {
                    "script": job.script,
                    "log": log_stem(job.script),
                    "count": len(job.points),
                    "cores": min(cores, job.shape.ranks * job.shape.cores),
                    "seconds": job.shape.minutes * 60,
                }
                for job in jobs
            ],
        }
        try:
            write_whole(folder / QUEUE, text.to_json(queue, text.owner_of(folder)))
            (folder / STATE).unlink(missing_ok=True)
            with (folder / "runner.txt").open("wb") as log:
                process = subprocess.Popen(
                    [sys.executable, "-m", "hpcsamp.campaign.schedulers.runner", str(folder)],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=clean(os.environ),
                    start_new_session=True,
                )
        except OSError as e:
            raise UsageError(f"cannot start points in {folder}: {e.strerror}") from e
        end = time.monotonic() + self.site.timeout
        while not (folder / STATE).exists():
            if process.poll() is not None or time.monotonic() > end:
                process.kill()
                said = (folder / "runner.txt").read_text(errors="replace").strip().splitlines()
                raise SchedulerError(f"the runner did not start: {said[-1] if said else folder}")
            time.sleep(0.02)
        process.returncode = 0  # the runner continues in the background: do not wait for it
        for job in jobs:
            taken(job, str(folder / job.script))

    def live(self, jobs: Sequence[str]) -> dict[Element, Live]:
        """Read the state files of the runners that are alive."""
        found: dict[Element, Live] = {}
        for folder in {Path(j).parent for j in jobs}:
            state = _alive(folder)
            if state is None:
                continue
            arrays = text.read_json(folder / QUEUE, text.owner_of(folder), unsealed=False)["arrays"]
            order = [(a["script"], i) for a in arrays for i in range(a["count"])]
            waiting = [*order[state["next"] :], *map(tuple, state["again"])]
            for script, index in waiting:
                found[str(folder / script), index] = "queued"
            for script, index in state["running"]:
                found[str(folder / script), index] = "running"
        return {e: live for e, live in found.items() if e[0] in set(jobs)}

    def find(self, name: str, script: Path) -> str | None:
        """Find a job by the runner of its folder."""
        return str(script) if _alive(script.parent) is not None else None

    def cancel(self, jobs: Sequence[str]) -> None:
        """Stop the runners of some jobs and their points, which have time to write a checkpoint."""
        ending = []
        for folder in {Path(j).parent for j in jobs}:
            state = _alive(folder)
            if state is not None:
                os.kill(state["pid"], signal.SIGTERM)
                ending.append(state)
        end = time.monotonic() + max(self.site.timeout, 2 * GRACE)
        for state in ending:
            while started(state["pid"]) == state["started"]:
                if time.monotonic() > end:
                    raise SchedulerError(f"the runner {state['pid']} does not end")
                time.sleep(0.05)


def _alive(folder: Path) -> dict | None:
    """Return the state of the runner of a submission; None if it has ended."""
    if not (folder / STATE).exists():
        return None
    try:
        state = text.read_json(folder / STATE, text.owner_of(folder), unsealed=False)
        return state if started(state["pid"]) == state["started"] else None
    except DataError:
        if not (folder / STATE).exists():  # the runner has just ended
            return None
        raise
