"""Runner of the local scheduler: ``python -m hpcsamp.campaign.schedulers.runner FOLDER``.

Starts the points of one submission in order, as many at the same time as the cores and ``at_once``
allow, restarts points that stop early (exit code 75), and ends with the last point. On TERM it
stops its points, which have time to write a checkpoint.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from hpcsamp.files import write_whole
from hpcsamp.processes import started
from hpcsamp.sealing import text

QUEUE, STATE = "local.json", "local-state.json"
AGAIN = 75
STARTS = 100
"""Largest number of starts of a point, so that one that always stops early is given up."""

GRACE = 20.0
"""Seconds that points have to stop when the runner ends."""

Place = tuple[int, int]  # array, index


class Runner:
    """Runs the points of one submission.

    Parameters
    ----------
    folder
        Folder of the submission.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        queue = text.read_json(folder / QUEUE, text.owner_of(folder), unsealed=False)
        self.arrays: list[dict[str, Any]] = queue["arrays"]
        self.cores: int = queue["cores"]
        self.at_once: int = queue["at_once"] or sys.maxsize
        self.order = [(a, i) for a, array in enumerate(self.arrays) for i in range(array["count"])]
        self.next = 0
        self.again: list[Place] = []
        self.starts: Counter[Place] = Counter()
        self.running: dict[Place, subprocess.Popen[bytes]] = {}
        self.deadline: dict[Place, float] = {}
        self.stopping = False

    def run(self) -> None:
        """Run until all points have ended, or TERM is received."""
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        self._note()
        while not self.stopping and (self.running or self._waiting()):
            changed = self._start_those_that_fit()
            changed |= self._look()
            if changed:
                self._note()
            else:
                time.sleep(0.05)
        self._end_all()
        (self.folder / STATE).unlink(missing_ok=True)

    def _stop(self, *_: object) -> None:
        self.stopping = True

    def _waiting(self) -> list[Place]:
        return self.order[self.next : self.next + 1] or self.again[:1]

    def _start_those_that_fit(self) -> bool:
        changed = False
        while waiting := self._waiting():
            place = waiting[0]
            used = sum(self.arrays[a]["cores"] for a, _ in self.running)
            full = used + self.arrays[place[0]]["cores"] > self.cores
            if full or len(self.running) >= self.at_once:
                break
            if self.next < len(self.order):
                self.next += 1
            else:
                self.again.pop(0)
            self._start(place)
            changed = True
        return changed

    def _start(self, place: Place) -> None:
        array, index = self.arrays[place[0]], place[1]
        self.starts[place] += 1
        with (self.folder / f"{array['log']}-{index}.txt").open("ab") as log:
            self.running[place] = subprocess.Popen(
                ["bash", str(self.folder / array["script"]), str(index)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=_end_with_parent,
            )
        # training stops itself before the limit; anything else is killed
        self.deadline[place] = time.monotonic() + array["seconds"] + GRACE

    def _look(self) -> bool:
        changed = False
        for place, process in list(self.running.items()):
            if process.poll() is None:
                if time.monotonic() > self.deadline[place]:
                    print(f"{self.arrays[place[0]]['script']} {place[1]}: out of time", flush=True)
                    self._kill(process)
                continue
            del self.running[place]
            if process.returncode == AGAIN and self.starts[place] < STARTS:
                self.again.append(place)
            changed = True
        return changed

    def _end_all(self) -> None:
        for process in self.running.values():
            process.terminate()  # the script forwards the signal
        end = time.monotonic() + GRACE
        for process in self.running.values():
            try:
                process.wait(max(0.1, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                self._kill(process)

    def _kill(self, process: subprocess.Popen[bytes]) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def _note(self) -> None:
        def named(places: Any) -> list[tuple[str, int]]:
            return [(self.arrays[a]["script"], i) for a, i in places]

        state = {
            "pid": os.getpid(),
            "started": started(os.getpid()),
            "next": self.next,
            "again": named(self.again),
            "running": named(self.running),
        }
        try:
            write_whole(self.folder / STATE, text.to_json(state, text.owner_of(self.folder)))
        except OSError as e:  # a full quota: points continue, and marks record their states
            print(f"cannot write {STATE}: {e.strerror}", flush=True)


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


if __name__ == "__main__":
    Runner(Path(sys.argv[1])).run()
