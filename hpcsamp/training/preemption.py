"""Stopping in time: a signal or the end of the job's time is noticed, checkpointed, and told.

A signal handler only notes which signal came. Every step each rank says what it wishes
(:meth:`Watch.wishes`), the ranks agree on the union of that in the exchange that a step has anyway
(:class:`~hpcsamp.training.agreement.Agreement`), so all of them stop after the same step, write the
checkpoint and end with :class:`~hpcsamp.errors.PreemptedError`: exit code 75, "run me again".

======== =========================================================================================
SIGUSR2  what batch systems are asked to send before the end (``sbatch --signal=USR2@120``; not
         USR1, which NCCL uses): stop with a checkpoint, 75
SIGTERM  preemption, ``scancel``: the same; before the first step it ends the process at once
SIGINT   a person: stop with a checkpoint, 130 (a batch script does not requeue that); a second one
         does not wait for the step, but for a checkpoint that is being written
time     the deadline is near: stop with a checkpoint, 75
======== =========================================================================================
"""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from enum import IntFlag
from types import FrameType, TracebackType
from typing import Any

from hpcsamp.errors import PreemptedError


class Wish(IntFlag):
    """Why a rank wants to stop; a bit each, so that wishes of ranks can be united."""

    NONE = 0
    USR2 = 1
    TERM = 2
    INT = 4
    TIME = 8
    WRITING = 16
    """No wish to stop: a checkpoint is on its way to the disk."""


_WISH = {signal.SIGUSR2: Wish.USR2, signal.SIGTERM: Wish.TERM, signal.SIGINT: Wish.INT}
_TOLD = {
    Wish.USR2: "SIGUSR2",
    Wish.TERM: "SIGTERM",
    Wish.INT: "interrupted",
    Wish.TIME: "the time limit is near",
}


class Watch:
    """Notices signals and the deadline while it is entered; the handlers are put back after.

    Outside of the main thread Python allows no handlers: then only the deadline is watched.

    Parameters
    ----------
    deadline
        Unix time in seconds at which the job will be ended, or None.
    margin
        Seconds that must at least be left for stopping. It grows with what the run is seen to need:
        twice its slowest checkpoint and its longest stretch between two steps. A margin beyond a
        quarter of the time that is left at the start would leave no time to work, and is cut.
    clock
        Unix time.
    """

    def __init__(
        self,
        deadline: float | None = None,
        margin: float = 60.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.deadline = math.inf if deadline is None else deadline
        self._clock = clock
        self._least = min(margin, max(0.0, (self.deadline - clock()) / 4))
        self._noted = Wish.NONE
        self._asked: float | None = None  # when wishes were asked for last: training has begun
        self._gap = 0.0
        self._checkpoint = 0.0
        self._saving = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Watch:
        if threading.current_thread() is threading.main_thread():
            for number in _WISH:
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGTERM and self._asked is None:  # there is nothing to lose yet
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        again = bool(self._noted & Wish.INT)
        self._noted |= _WISH[signal.Signals(number)]
        if number == signal.SIGINT and (again or self._asked is None) and not self._saving:
            raise KeyboardInterrupt

    def needed(self) -> float:
        """Seconds that stopping takes, by what was seen so far; at least the margin."""
        return max(self._least, 2 * (self._checkpoint + self._gap))

    def wishes(self) -> Wish:
        """What this rank wishes now. To be asked once a step."""
        now = self._clock()
        if self._asked is not None:
            self._gap = max(self._gap, now - self._asked)
        self._asked = now
        late = Wish.TIME if now + self.needed() >= self.deadline else Wish.NONE
        return self._noted | late

    @contextmanager
    def saving(self) -> Iterator[None]:
        """A checkpoint is being written: it is timed, and no signal interrupts it."""
        began, self._saving = self._clock(), True
        try:
            yield
        finally:
            self._saving = False
            self.wrote(self._clock() - began)

    def wrote(self, seconds: float) -> None:
        """A checkpoint took so long, from its begin until it was on the disk."""
        self._checkpoint = max(self._checkpoint, seconds)


def stopped(wishes: int, step: int, steps: int, checkpoint: object) -> PreemptedError:
    """The error that ends a run which the ranks agreed to stop, the same on every rank.

    Parameters
    ----------
    wishes
        The union of the ranks' wishes, not empty.
    step, steps
        Steps done, and steps of the whole run.
    checkpoint
        What was written.
    """
    agreed = Wish(wishes)
    error = PreemptedError(
        f"{reason(agreed)}; {step} of {steps} steps are done and in {checkpoint}; go on with "
        f"--resume"
    )
    if Wish.INT in agreed:
        error.exit_code = 130
    error.agreed = True
    return error


def reason(wishes: int) -> str:
    """Why, for people: ``SIGUSR2``, ``SIGTERM, the time limit is near``."""
    return ", ".join(text for wish, text in _TOLD.items() if wish in Wish(wishes))


def deadline(
    limit: float | None, environment: Mapping[str, str], now: float | None = None
) -> float | None:
    """When the job will be ended: the earliest of what is known, as Unix time; None if nothing is.

    Parameters
    ----------
    limit
        Seconds that this run may take from now, or None.
    environment
        ``SLURM_JOB_END_TIME`` (Slurm 22.05 and newer) and ``HPCSAMP_END_TIME`` (job scripts set it
        for other schedulers) are Unix times.
    now
        Unix time (default: the clock's).
    """
    now = time.time() if now is None else now
    ends = [] if limit is None else [now + limit]
    for variable in ("SLURM_JOB_END_TIME", "HPCSAMP_END_TIME"):
        if environment.get(variable, "").isdigit():  # Slurm says it in words where there is none
            ends.append(float(environment[variable]))
    return min(ends, default=None)
