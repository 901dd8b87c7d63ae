"""Local scheduler: run points on this machine, as many at the same time as its cores allow.

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

from hpcsamp.campaign.render import Job, job_log_stem
from hpcsamp.campaign.schedulers.base import (
    Element,
    Limits,
    Live,
    Scheduler,
    SchedulerError,
    clean,
)
from hpcsamp.campaign.schedulers.runner import DROPPED, GRACE, QUEUE, STATE, alive, places
from hpcsamp.errors import UsageError
from hpcsamp.files import write_whole
from hpcsamp.processes import started
from hpcsamp.sealing import text


class Local(Scheduler):
    """Run points in parallel on this machine. A job's identifier is the path of its script."""

    template = '{% extends "local.j2" %}'
    reads_header = False

    def limits(self) -> Limits:
        """Return empty limits: there are none."""
        return Limits(0, {})

    def submit(
        self,
        jobs: Sequence[Job],
        folder: Path,
        taken: Callable[[Job, str], None],
        after: Sequence[str] = (),  # runners of one campaign share cores and at_once
    ) -> None:
        """Start a background runner that starts one point after the other."""
        cores = self.site.cores or len(os.sched_getaffinity(0))
        queue = {
            "cores": cores,
            "at_once": self.site.at_once,
            "requeue": self.site.requeue,
            "arrays": [
                {
                    "script": job.script,
                    "log": job_log_stem(job.script, job.shape.points_per_job),
                    "count": job.elements,
                    "several": job.shape.points_per_job > 1,
                    "cores": min(cores, job.shape.ranks * job.shape.cores),
                    "seconds": job.shape.job_minutes * 60,
                    "needs": _needs(job),
                }
                for job in jobs
            ],
        }
        try:
            write_whole(folder / QUEUE, text.to_json(queue, text.owner_of(folder)))
            for old in (STATE, DROPPED):
                (folder / old).unlink(missing_ok=True)
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
            state = alive(folder)
            if state is None:
                continue
            found |= places(folder, state)
        return {e: live for e, live in found.items() if e[0] in set(jobs)}

    def find(self, name: str, script: Path, identity: str = "") -> str | None:
        """Find a job by the runner of its folder."""
        return str(script) if alive(script.parent) is not None else None

    def cancel_elements(self, elements: Sequence[Element]) -> None:
        """Ask the runners to stop or skip points, and wait until they have done so."""
        for job, index in elements:
            with (Path(job).parent / DROPPED).open("a") as f:
                f.write(f"{Path(job).name} {index}\n")
        end = time.monotonic() + max(self.site.timeout, 2 * GRACE)
        jobs = sorted({job for job, _ in elements})
        while set(elements) & self.live(jobs).keys():
            if time.monotonic() > end:
                raise SchedulerError("the runner has not stopped the points")
            time.sleep(0.05)

    def cancel(self, jobs: Sequence[str]) -> None:
        """Stop the runners of the given jobs; their points have time to write a checkpoint."""
        ending = []
        for folder in {Path(j).parent for j in jobs}:
            state = alive(folder)
            if state is not None:
                os.kill(state["pid"], signal.SIGTERM)
                ending.append(state)
        end = time.monotonic() + max(self.site.timeout, 2 * GRACE)
        for state in ending:
            while started(state["pid"]) == state["started"]:
                if time.monotonic() > end:
                    raise SchedulerError(f"the runner {state['pid']} did not end")
                time.sleep(0.05)


def _needs(job: Job) -> list[list[Element]]:
    """Return the elements of other jobs that each element of a job waits for."""
    pack = job.shape.points_per_job
    lines = [job.needs[i * pack : (i + 1) * pack] for i in range(job.elements)]
    return [sorted({e for elements in of for e in elements}) for of in lines]
