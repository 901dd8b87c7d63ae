"""Signs of life of the threads of this process: a thread that works uses its core.

One that hangs in a file system does not; nor does one that waits, which is recognised by its phase.
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

from hpcsamp.watchdog.whereabouts import DOING, LONGEST, PASSED, QUIET, READS, Whereabouts

LEAST = 1e-4
"""Part of the time for which a thread that works uses a core, at least: copying 1 MB/s takes more,
and a system call that is tried again and again takes less."""


def busy(thread: int) -> float:
    """Seconds for which a thread of this process has used a core.

    Where the system does not tell, it is a number that grows: nothing can be said of the thread.
    """
    folder = Path(f"/proc/self/task/{thread}")
    for file, seconds in (("schedstat", _of_schedstat), ("stat", _of_stat)):
        try:
            found = seconds((folder / file).read_text())
        except (OSError, ValueError, IndexError):
            continue
        if found > 0:
            return found
    return time.monotonic()


def _of_schedstat(text: str) -> float:
    return int(text.split()[0]) / 1e9


def _of_stat(text: str) -> float:
    facts = text.rpartition(")")[2].split()
    return (int(facts[11]) + int(facts[12])) / os.sysconf("SC_CLK_TCK")


class Signs:
    """Looks, at every tick, for how long a thread that should work has given no sign of it.

    Parameters
    ----------
    where
        The process's whereabouts, whose ``QUIET`` and ``LONGEST`` are set.
    now
        Seconds of any clock.
    """

    def __init__(self, where: Whereabouts, now: float) -> None:
        self._where = where
        self._main = threading.main_thread().native_id or 0
        self._passed = -1
        self._busy: dict[str, float] = {}
        self._last = {"main": now, "reader": now}

    def shift(self, seconds: float) -> None:
        """The process was suspended for so long."""
        self._last = {name: then + seconds for name, then in self._last.items()}

    def look(self, now: float) -> None:
        """Set ``QUIET`` and ``LONGEST``."""
        row = self._where.row
        passed, self._passed = row[PASSED] != self._passed, row[PASSED]
        working = {"main": not row[DOING], "reader": bool(row[READS])}
        threads = {"main": self._main, "reader": self._where.reader}
        quiet = 0.0
        for name, works in working.items():
            lull = now - self._last[name]
            spent = busy(threads[name]) - self._busy.get(name, 0.0) if works else 0.0
            if not works or passed or not 0 <= spent < max(LEAST * lull, LEAST):
                if works:
                    row[LONGEST] = max(row[LONGEST], int(1000 * lull))
                self._last[name] = now
                self._busy[name] = busy(threads[name])
                lull = 0.0
            quiet = max(quiet, lull)
        row[QUIET] = int(1000 * quiet)
