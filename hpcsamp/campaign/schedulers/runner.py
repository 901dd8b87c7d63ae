"""Runner of the local scheduler: ``python -m hpcsamp.campaign.schedulers.runner FOLDER``.

The runner starts the points of one submission in order, as many at the same time as the cores and
``at_once`` allow, restarts points that stop early (exit code 75), and ends with the last point. On
TERM it stops its points, which have time to write a checkpoint.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Literal

from hpcsamp.errors import DataError
from hpcsamp.files import write_whole
from hpcsamp.processes import started
from hpcsamp.sealing import text

QUEUE, STATE, DROPPED = "local.json", "local-state.json", "local-dropped.txt"
AGAIN = 75
GRACE = 20.0
"""Time in seconds that points have to stop when the runner ends."""

Place = tuple[int, int]  # array, index


class Runner:
    """Run the points of one submission.

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
        self.requeue: bool = queue.get("requeue", True)
        self.order = [(a, i) for a, array in enumerate(self.arrays) for i in range(array["count"])]
        self.next = 0
        self.again: list[Place] = []
        self.running: dict[Place, subprocess.Popen[bytes]] = {}
        self.deadline: dict[Place, float] = {}
        self.stopping = False
        self.dropped: dict[Place, float] = {}  # with the times at which they are killed
        self._read = 0
        self._ask_at = 0.0

    def run(self) -> None:
        """Run until all points have ended, or TERM is received."""
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        self._note()
        while not self.stopping and (self.running or self._waiting()):
            changed = self._drop()
            changed |= self._start_those_that_fit()
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
        while self.next < len(self.order) and self.order[self.next] in self.dropped:
            self.next += 1
        return self.order[self.next : self.next + 1] or self.again[:1]

    def _drop(self) -> bool:
        """Read which points to skip or stop."""
        try:
            with (self.folder / DROPPED).open() as f:
                f.seek(self._read)
                new = f.read().rpartition("\n")[0]
        except OSError:
            return False
        self._read += len(new.encode()) + bool(new)
        scripts = {array["script"]: a for a, array in enumerate(self.arrays)}
        for line in new.splitlines():
            script, _, index = line.rpartition(" ")
            if script in scripts and index.isdigit():
                place = (scripts[script], int(index))
                self.dropped[place] = time.monotonic() + GRACE
                if place in self.running:
                    self.running[place].terminate()  # the script forwards the signal
        self.again = [place for place in self.again if place not in self.dropped]
        return bool(new)

    def _start_those_that_fit(self) -> bool:
        changed = False
        while waiting := self._waiting():
            place = waiting[0]
            cores = self.arrays[place[0]]["cores"]
            if self._full(cores) or self._must_wait(place):
                break
            with self._with_others() as (others, taken):
                if self._full(cores, others, taken):
                    break
                if self.next < len(self.order):
                    self.next += 1
                else:
                    self.again.pop(0)
                self._start(place)
                self._note()
            changed = True
        return changed

    def _must_wait(self, place: Place) -> bool:
        """Whether a job that the element needs is waiting or running.

        Whether it has succeeded is checked by the script.
        """
        needs = self.arrays[place[0]].get("needs", [])
        if not needs or time.monotonic() < self._ask_at:
            return bool(needs)
        wanted = {(script, index) for script, index in needs[place[1]]}
        for folder in {Path(script).parent for script, _ in wanted}:
            state = alive(folder)
            if state is not None and wanted & places(folder, state).keys():
                self._ask_at = time.monotonic() + 0.3
                return True
        return False

    def _full(self, cores: int, others: int = 0, taken: int = 0) -> bool:
        """Whether another point with this many cores would exceed the limits of the campaign."""
        used = taken + sum(self.arrays[a]["cores"] for a, _ in self.running)
        too_many = others + len(self.running) >= self.at_once
        return too_many or (used > 0 and used + cores > self.cores)

    @contextlib.contextmanager
    def _with_others(self) -> Iterator[tuple[int, int]]:
        """Yield the points and cores used by other runners, which start no points in the block."""
        folder = os.open(self.folder.parent, os.O_RDONLY)
        try:
            with contextlib.suppress(OSError):  # some file systems have no locks
                fcntl.flock(folder, fcntl.LOCK_EX)
            number = cores = 0
            for file in self.folder.parent.glob(f"*/{STATE}"):
                state = None
                with contextlib.suppress(DataError):
                    state = alive(file.parent) if file.parent != self.folder else None
                if state is not None:
                    number += len(state["running"])
                    cores += state.get("cores", 0)
            yield number, cores
        finally:
            os.close(folder)

    def _log(self, place: Place) -> IO[bytes]:
        return (self.folder / f"{self.arrays[place[0]]['log']}-{place[1]}.txt").open("ab")

    def _start(self, place: Place) -> None:
        array, index = self.arrays[place[0]], place[1]
        several = ["job"] if array.get("several") else []
        with self._log(place) as log:
            self.running[place] = subprocess.Popen(
                ["bash", str(self.folder / array["script"]), *several, str(index)],
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
                if time.monotonic() > self.dropped.get(place, math.inf):
                    self._kill(process)
                elif time.monotonic() > self.deadline[place]:
                    self._kill(process)
                    with self._log(place) as log:
                        log.write(b"campaign: the time limit ended this point\n")
                continue
            del self.running[place]
            again = process.returncode == AGAIN and self.requeue  # the script counts its starts
            if again and place not in self.dropped:
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
            "dropped": named(self.dropped),
            "running": named(self.running),
            "cores": sum(self.arrays[a]["cores"] for a, _ in self.running),
        }
        try:
            write_whole(self.folder / STATE, text.to_json(state, text.owner_of(self.folder)))
        except OSError as e:  # a full quota: points continue, and marks record their states
            print(f"cannot write {STATE}: {e.strerror}", flush=True)


def places(
    folder: Path, state: dict[str, Any]
) -> dict[tuple[str, int], Literal["queued", "running"]]:
    """Return the waiting and running elements of a runner, by path of the script and index."""
    arrays = text.read_json(folder / QUEUE, text.owner_of(folder), unsealed=False)["arrays"]
    order = [(a["script"], i) for a in arrays for i in range(a["count"])]
    dropped = set(map(tuple, state.get("dropped", ())))
    waiting = [*order[state["next"] :], *map(tuple, state["again"])]
    found: dict[tuple[str, int], Literal["queued", "running"]] = {
        (str(folder / script), index): "queued"
        for script, index in waiting
        if (script, index) not in dropped
    }
    return found | {(str(folder / script), index): "running" for script, index in state["running"]}


def alive(folder: Path) -> dict[str, Any] | None:
    """Return the state of a submission's runner; None if it has ended."""
    if not (folder / STATE).exists():
        return None
    try:
        state = text.read_json(folder / STATE, text.owner_of(folder), unsealed=False)
        return state if started(state["pid"]) == state["started"] else None
    except DataError:
        if not (folder / STATE).exists():  # the runner has just ended
            return None
        raise


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


if __name__ == "__main__":
    Runner(Path(sys.argv[1])).run()
