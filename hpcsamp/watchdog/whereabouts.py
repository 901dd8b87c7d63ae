"""Record the current work of a rank: a few integers set by its threads, cheap enough for each step.

The integers are a row of a table that the ranks of a node share, so the last action of a rank is
known even if it was stopped in the middle of it. A listener (:meth:`Whereabouts.listening`) can
measure the parts of a step; without a listener, recording costs almost no time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from enum import IntEnum
from typing import Literal

COLUMNS = 10
BEAT, PASSED, PHASE, NUMBER, DOING, READS, EPOCH, BATCH, QUIET, LONGEST = range(COLUMNS)
"""Columns of a row, int64. ``BEAT`` counts the ticks of the rank's watchdog, ``PASSED`` the points
that its threads have passed. ``QUIET`` is the time in milliseconds for which a thread that should
be working has been idle, ``LONGEST`` the longest such time after which one continued."""


class Phase(IntEnum):
    """Phase of a rank's work; some phases have a number, see :data:`_TEXTS`."""

    START = 0
    STEP = 1
    CHECKPOINT = 2
    EVALUATION = 3
    SHARD = 4
    END = 5


class Doing(IntEnum):
    """Activity of the main thread in its phase: computing, or waiting for something."""

    WORK = 0
    AGREEMENT = 1
    EXCHANGE = 2
    BATCH = 3


Part = Literal[
    "feed", "augment", "draw", "forward", "backward", "penalty", "agreement", "exchange",
    "optimiser",
]  # fmt: skip
"""A part of a training step in the main thread; parts may be nested."""

Listener = Callable[[Part], AbstractContextManager[None]]
"""Returns the context in which a part is executed."""

_PARTS: dict[Doing, Part] = {
    Doing.AGREEMENT: "agreement",
    Doing.EXCHANGE: "exchange",
    Doing.BATCH: "feed",
}
_TEXTS = {
    Phase.START: "the start",
    Phase.STEP: "step {}",
    Phase.CHECKPOINT: "the checkpoint of step {}",
    Phase.EVALUATION: "batch {} of an evaluation",
    Phase.SHARD: "shard {}",
    Phase.END: "the end",
}
_WAITS = {
    Doing.AGREEMENT: ", waiting for the other ranks",
    Doing.EXCHANGE: ", in an exchange",
    Doing.BATCH: ", waiting for its batch",
}


def describe(row: Sequence[int]) -> str:
    """Describe a row in words, e.g. ``step 12, in an exchange``."""
    text = _TEXTS[Phase(row[PHASE])].format(row[NUMBER]) + _WAITS.get(Doing(row[DOING]), "")
    if row[READS]:
        text += f", reading batch {row[BATCH]} of epoch {row[EPOCH]}"
    return text


class _Waiting(AbstractContextManager[None]):
    """Context of waiting; a class, because a generator would be too slow for use in each step."""

    __slots__ = ("_before", "_doing", "_row")

    def __init__(self, row: memoryview, doing: int) -> None:
        self._row, self._doing, self._before = row, doing, row[DOING]

    def __enter__(self) -> None:
        row = self._row
        row[DOING] = self._doing
        row[PASSED] += 1

    def __exit__(self, *_: object) -> None:
        row = self._row
        row[DOING] = self._before
        row[PASSED] += 1


_NOTHING = nullcontext()


@contextmanager
def _heard(*contexts: AbstractContextManager[None]) -> Iterator[None]:
    with contexts[0], contexts[1]:
        yield


class Whereabouts:
    """The row of this process, which is set by its main thread and its reading thread."""

    def __init__(self) -> None:
        self._main = threading.main_thread().ident
        self._listener: Listener | None = None
        self.reader = 0
        self.row = memoryview(bytearray(8 * COLUMNS)).cast("q")

    def live_in(self, row: memoryview | None) -> None:
        """Store the record in this row, after clearing it; None for private memory."""
        if row is None:
            row = memoryview(bytearray(8 * COLUMNS)).cast("q")
        row[:] = memoryview(bytearray(8 * COLUMNS)).cast("q")
        self.row = row

    def at(self, phase: Phase, number: int = 0) -> None:
        """Record that the main thread begins a phase."""
        row = self.row
        row[PHASE], row[NUMBER] = phase, number
        row[PASSED] += 1

    def goes_on(self) -> None:
        """Give a sign of life from a thread that works or waits for another job."""
        self.row[PASSED] += 1

    def waiting(self, doing: Doing) -> AbstractContextManager[None]:
        """Context in which the main thread waits for other ranks or for its reading thread."""
        if threading.get_ident() != self._main:
            return _NOTHING
        waiting = _Waiting(self.row, doing)
        return waiting if self._listener is None else _heard(waiting, self.part(_PARTS[doing]))

    def part(self, part: Part) -> AbstractContextManager[None]:
        """Context in which the main thread executes a part of a training step."""
        listener = self._listener
        if listener is None or threading.get_ident() != self._main:
            return _NOTHING
        return listener(part)

    @contextmanager
    def listening(self, listener: Listener) -> Iterator[None]:
        """Context in which each part of a step is executed in a context of the listener."""
        before, self._listener = self._listener, listener
        try:
            yield
        finally:
            self._listener = before

    @contextmanager
    def reading(self, epoch: int, batch: int) -> Iterator[None]:
        """Context in which the reading thread reads a batch."""
        self.reader = threading.get_native_id()
        row = self.row
        row[EPOCH], row[BATCH], row[READS] = epoch, batch, 1
        try:
            yield
        finally:
            row[READS] = 0
            row[PASSED] += 1


here = Whereabouts()
"""The whereabouts of this process; there is only one, as with signal handlers."""
