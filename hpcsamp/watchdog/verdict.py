"""Who is to blame if a job does not go on: pure functions of what one rank has seen of all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from hpcsamp.watchdog.whereabouts import BEAT, COLUMNS, DOING, LONGEST, PASSED, QUIET, READS

Kind = Literal["stopped", "stuck", "waiting"]
PATIENCE = 3.0
"""A rank may be quiet for so many times as long as the longest time after which one went on."""


@dataclass(frozen=True)
class Blame:
    """A rank that the others wait for.

    Attributes
    ----------
    rank, seconds
        Which, and since when.
    kind
        ``stopped``: it gives no sign of life at all. ``stuck``: its watchdog ticks, but a thread
        that should work does nothing, as in a file system that hangs. ``waiting``: all wait for
        each other, and this one has come least far.
    """

    rank: int
    seconds: float
    kind: Kind


class Witness:
    """What one rank has seen of all ranks, and when.

    Parameters
    ----------
    ranks
        How many there are.
    now
        Seconds of any clock.
    """

    def __init__(self, ranks: int, now: float) -> None:
        self.rows: list[list[int]] = [[0] * COLUMNS for _ in range(ranks)]
        self._heard = [now] * ranks
        self._passed = [now] * ranks
        self._longest = 0.0

    def shift(self, seconds: float) -> None:
        """This rank was suspended for so long: for it, no time has passed."""
        self._heard = [then + seconds for then in self._heard]
        self._passed = [then + seconds for then in self._passed]

    def see(self, rank: int, row: Sequence[int], now: float) -> None:
        """A rank's row as it is now, or as it was last reported."""
        old = self.rows[rank]
        if row[BEAT] > old[BEAT]:
            self._longest = max(self._longest, now - self._heard[rank])
            self._heard[rank] = now
        if row[PASSED] != old[PASSED] and row[BEAT] >= old[BEAT]:
            self._passed[rank] = now
        if row[BEAT] >= old[BEAT]:
            self.rows[rank] = list(row)

    def limit(self, stall: float) -> float:
        """Seconds for which a rank may give no sign of life: more than it ever took one."""
        longest = max(self._longest, *(row[LONGEST] / 1000 for row in self.rows))
        return max(stall, PATIENCE * longest)

    def silent(self, rank: int, now: float) -> float:
        """Seconds since a rank was heard of last."""
        return now - self._heard[rank]

    def verdict(self, watched: Sequence[int], stall: float, now: float) -> list[Blame]:
        """The ranks that the others wait for; none if all is well, as far as is known.

        Parameters
        ----------
        watched
            The ranks of which anything can be known.
        stall
            Seconds, see :meth:`limit`.
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
