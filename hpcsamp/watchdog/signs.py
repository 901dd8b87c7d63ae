"""Detect whether the threads of this process are working, from the CPU time that they use.

A thread that hangs in a file system uses no CPU time. Neither does a thread that waits for other
ranks, but this is recorded in its row of :mod:`.whereabouts`.
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

from hpcsamp.watchdog.whereabouts import DOING, LONGEST, PASSED, QUIET, READS, Whereabouts

LEAST = 1e-4
"""Smallest fraction of the time for which a working thread uses a core: copying 1 MB/s takes more,
and a system call that is repeatedly retried takes less."""


def busy(thread: int) -> float:
    """CPU time in seconds that a thread of this process has used.

    If the system does not provide it, the current time is returned, so that the thread appears to
    be working.
    """
    folder = Path(f"/proc/self/task/{thread}")
    for file, seconds in (("schedstat", _of_schedstat), ("stat", _of_stat)):
        try:
            used = seconds((folder / file).read_text())
        except (OSError, ValueError, IndexError):
            continue
        if used > 0:
            return used
    return time.monotonic()


def _of_schedstat(text: str) -> float:
    return int(text.split()[0]) / 1e9


def _of_stat(text: str) -> float:
    facts = text.rpartition(")")[2].split()
    return (int(facts[11]) + int(facts[12])) / os.sysconf("SC_CLK_TCK")


class Signs:
    """Measure, at every tick, how long a thread that should be working has been idle.

    Parameters
    ----------
    where
        The row of this process, whose columns ``QUIET`` and ``LONGEST`` are set.
    now
        Current time in seconds, of any clock.
    """

    def __init__(self, where: Whereabouts, now: float) -> None:
        self._where = where
        self._main = threading.main_thread().native_id or 0
        self._passed = -1
        self._busy: dict[str, float] = {}
        self._last = {"main": now, "reader": now}

    def shift(self, seconds: float) -> None:
        """Discount time for which the process was suspended."""
        self._last = {name: then + seconds for name, then in self._last.items()}

    def look(self, now: float) -> None:
        """Check the threads and set ``QUIET`` and ``LONGEST``."""
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
