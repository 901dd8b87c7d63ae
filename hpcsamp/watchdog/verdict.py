"""Decide which ranks have stalled, from the latest state received from each rank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from hpcsamp.watchdog.whereabouts import BEAT, COLUMNS, DOING, LONGEST, PASSED, QUIET, READS

Kind = Literal["stopped", "stuck", "waiting"]
PATIENCE = 3.0
"""The time limit is at least this multiple of the longest pause after which a rank continued."""


@dataclass(frozen=True)
class Blame:
    """A stalled rank, for which the others wait.

    Attributes
    ----------
    rank, seconds
        The rank, and the number of seconds since it stalled.
    kind
        Kind of the stall. ``stopped``: the rank gives no sign of life at all. ``stuck``: its
        watchdog is running, but a thread that should be working does nothing, e.g. because a file
        system hangs. ``waiting``: all ranks wait for each other, and this one is the furthest
        behind.
    """

    rank: int
    seconds: float
    kind: Kind


class Witness:
    """The rows of all ranks that one rank has received, and the times at which they changed.

    Parameters
    ----------
    ranks
        Number of ranks.
    now
        Current time in seconds, of any clock.
    """

    def __init__(self, ranks: int, now: float) -> None:
        self.rows: list[list[int]] = [[0] * COLUMNS for _ in range(ranks)]
        self._heard = [now] * ranks
        self._passed = [now] * ranks
        self._longest = 0.0

    def shift(self, seconds: float) -> None:
        """Discount time for which this rank was suspended."""
        self._heard = [then + seconds for then in self._heard]
        self._passed = [then + seconds for then in self._passed]

    def see(self, rank: int, row: Sequence[int], now: float) -> None:
        """Record the current, or last reported, row of a rank."""
        old = self.rows[rank]
        if row[BEAT] > old[BEAT]:
            self._longest = max(self._longest, now - self._heard[rank])
            self._heard[rank] = now
        if row[PASSED] != old[PASSED] and row[BEAT] >= old[BEAT]:
            self._passed[rank] = now
        if row[BEAT] >= old[BEAT]:
            self.rows[rank] = list(row)

    def limit(self, stall: float) -> float:
        """Time limit in seconds: ``stall``, or more if ranks have paused and continued before."""
        longest = max(self._longest, *(row[LONGEST] / 1000 for row in self.rows))
        return max(stall, PATIENCE * longest)

    def silent(self, rank: int, now: float) -> float:
        """Seconds since the last sign of life of a rank."""
        return now - self._heard[rank]

    def verdict(self, watched: Sequence[int], stall: float, now: float) -> list[Blame]:
        """The stalled ranks; empty if none has stalled, as far as this rank knows.

        Parameters
        ----------
        watched
            The ranks whose rows can be known.
        stall
            Time limit in seconds, see :meth:`limit`.
        """
        limit = self.limit(stall)
        blame = []
        for rank in watched:
            quiet = self.rows[rank][QUIET] / 1000
            if self.silent(rank, now) > limit:
                blame.append(Blame(rank, self.silent(rank, now), "stopped"))
            elif quiet > limit:
                blame.append(Blame(rank, quiet, "stuck"))
        everybody = len(watched) == len(self.rows) and all(
            row[DOING] and not row[READS] for row in self.rows
        )
        still = now - max(self._passed)
        if not blame and everybody and still > limit:
            least = min(row[PASSED] for row in self.rows)
            behind = [r for r in watched if self.rows[r][PASSED] == least]
            blame = [Blame(rank, still, "waiting") for rank in behind]
        return blame
