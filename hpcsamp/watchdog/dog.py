"""The watchdog thread of each rank, which ends a job if one of its ranks hangs."""

from __future__ import annotations

import math
import os
import platform
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from hpcsamp.errors import HpcsampError
from hpcsamp.serial import library
from hpcsamp.watchdog import stall
from hpcsamp.watchdog.rank_table import RankTable
from hpcsamp.watchdog.signs import Signs
from hpcsamp.watchdog.verdict import Blame, Witness
from hpcsamp.watchdog.whereabouts import BEAT, here

if TYPE_CHECKING:
    from mpi4py import MPI

GRACE = 5.0
"""Seconds for which the other ranks wait for the lowest one to report a stall."""


class Watchdog:
    """Context manager that watches all ranks. Entering is collective, and so is a normal exit.

    A rank has stalled if no sign of life was received from it for ``seconds`` (it was stopped, or
    its node is lost), or if one of its threads should be working but has not used its core for that
    long (a file system hangs). Ranks that wait for it have not stalled. The time limit grows to
    three times the longest pause after which a rank has continued. Time for which this rank itself
    was suspended does not count.

    Parameters
    ----------
    comm
        The ranks.
    seconds
        Time limit without a sign of life; 0 or infinity disables the watchdog.
    file
        Path of the stall file.
    """

    def __init__(self, comm: MPI.Comm, seconds: float, file: Path) -> None:
        self.seconds, self.file = seconds if math.isfinite(seconds) else 0.0, file
        self._whole = comm
        self._thread: threading.Thread | None = None
        self._ended = threading.Event()

    def __enter__(self) -> Watchdog:
        MPI = library(self._whole)  # noqa: N806
        here.live_in(None)
        if not self.seconds:
            return self
        self._comm = self._whole.Dup()
        self._messages = MPI.Query_thread() == MPI.THREAD_MULTIPLE
        self._places = self._comm.allgather((platform.node(), os.getpid()))
        self._table = RankTable(self._comm, self._messages)
        here.live_in(self._table.mine)
        self._tick = min(5.0, self.seconds / 20)
        now = time.monotonic()
        self._witness = Witness(self._comm.Get_size(), now)
        self._signs = Signs(here, now)
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        if self._thread is None:
            return
        self._ended.set()
        self._thread.join()
        here.live_in(None)
        if error is not None and not getattr(error, "agreed", False):
            return  # the job is about to be aborted: the other ranks are not here
        until = time.monotonic() + max(self.seconds, GRACE)
        while not self._table.settle():
            if time.monotonic() > until:
                raise HpcsampError("a rank did not reach the end of the command")
            time.sleep(1e-3)
        self._table.close()
        self._comm.Free()

    def describe(self) -> str:
        """Describe the settings of the watchdog in one line, for the log."""
        if self._thread is None:
            return "no watchdog: if a rank hangs, the others wait forever (training.stall = 0)"
        beyond = len(self._places) - len(self._table.known)
        return f"the job ends if a rank gives no sign of life for {self.seconds:g} s" + (
            f"; {beyond} ranks on other nodes are not watched, because this MPI does not support "
            f"calls from threads"
            if beyond
            else ""
        )

    def _watch(self) -> None:
        last = suspected = time.monotonic()
        row = self._table.mine
        while not self._ended.wait(self._tick):
            now = time.monotonic()
            if now - last > 3 * self._tick:  # this process was suspended, the others are not slow
                self._witness.shift(now - last)
                self._signs.shift(now - last)
                suspected = now
            last = now
            self._signs.look(now)
            row[BEAT] += 1
            self._table.exchange()
            for rank in self._table.known:
                self._witness.see(rank, self._table.rows[rank].tolist(), now)
            blame = self._witness.verdict(self._table.known, self.seconds, now)
            if not blame:
                suspected = now
            elif self._speaks(blame) or now - suspected > GRACE:
                self._end(blame)

    def _speaks(self, blame: list[Blame]) -> bool:
        """Whether this rank is the lowest one that is alive, which reports the stall."""
        stopped = {b.rank for b in blame if b.kind == "stopped"}
        alive = [r for r in self._table.known if r not in stopped]
        return bool(alive) and alive[0] == self._comm.Get_rank()

    def _end(self, blame: list[Blame]) -> None:
        rows = self._witness.rows
        record = stall.record(blame, rows, self._places, self._witness.limit(self.seconds))
        message = stall.line(blame, rows, self._places)
        stall.end(message, self.file, record, self._abort)

    def _abort(self) -> None:
        if self._messages:
            library(self._whole).COMM_WORLD.Abort(1)
        os._exit(1)  # the launcher ends the other ranks
