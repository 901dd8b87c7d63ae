"""Preemption: on a signal or near the time limit, write a checkpoint and exit with code 75.

A signal handler only records which signal arrived. In every step, each rank states whether it wants
to stop (:meth:`Watch.wishes`), and the ranks agree on the union of these wishes in the exchange
that a step needs anyway (:class:`~hpcsamp.training.step_agreement.Agreement`). So all of them stop
after the same step, write the checkpoint and raise :class:`~hpcsamp.errors.PreemptedError`: exit
code 75, "run again".

======== =========================================================================================
SIGUSR2  sent by batch systems before the end if requested (``sbatch --signal=USR2@120``; not USR1,
         which NCCL uses): stop with a checkpoint, 75
SIGTERM  preemption, ``scancel``: the same; before the first step it ends the process at once
SIGINT   Ctrl-C: stop with a checkpoint, 130 (which a batch script does not requeue); a second one
         does not wait for the step, only for a checkpoint that is being written
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
    """Reasons of a rank to stop, one bit each, so that all ranks can combine them with OR."""

    NONE = 0
    USR2 = 1
    TERM = 2
    INT = 4
    TIME = 8
    WRITING = 16
    """Not a reason to stop: a checkpoint is still being written."""


_WISH = {signal.SIGUSR2: Wish.USR2, signal.SIGTERM: Wish.TERM, signal.SIGINT: Wish.INT}
_TOLD = {
    Wish.USR2: "SIGUSR2",
    Wish.TERM: "SIGTERM",
    Wish.INT: "interrupted",
    Wish.TIME: "the time limit is near",
}


class Watch:
    """Watches signals and the deadline within a ``with`` block, then restores the handlers.

    Outside of the main thread Python allows no handlers, so only the deadline is watched.

    Parameters
    ----------
    deadline
        Unix time in seconds at which the job will be ended, or None.
    margin
        Smallest number of seconds to reserve for stopping. It grows with the observed times: twice
        the slowest checkpoint plus the longest time between two steps. It is limited to a quarter
        of the time that remains at the start, so that some time is left to work.
    clock
        Function that returns the Unix time.
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
        self._asked: float | None = None  # time of the last call of wishes, None before training
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
        if number == signal.SIGTERM and self._asked is None:  # there is no progress to lose yet
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        again = bool(self._noted & Wish.INT)
        self._noted |= _WISH[signal.Signals(number)]
        if number == signal.SIGINT and (again or self._asked is None) and not self._saving:
            raise KeyboardInterrupt

    def needed(self) -> float:
        """Seconds needed to stop, estimated from observed times; at least the margin."""
        return max(self._least, 2 * (self._checkpoint + self._gap))

    def wishes(self) -> Wish:
        """Return this rank's reasons to stop; call it once per step."""
        now = self._clock()
        if self._asked is not None:
            self._gap = max(self._gap, now - self._asked)
        self._asked = now
        late = Wish.TIME if now + self.needed() >= self.deadline else Wish.NONE
        return self._noted | late

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Time the writing of a checkpoint, which no signal interrupts."""
        began, self._saving = self._clock(), True
        try:
            yield
        finally:
            self._saving = False
            self.wrote(self._clock() - began)

    def wrote(self, seconds: float) -> None:
        """Record the seconds from the start of a checkpoint until it was on disk."""
        self._checkpoint = max(self._checkpoint, seconds)


def stopped(wishes: int, step: int, steps: int, checkpoint: object) -> PreemptedError:
    """Create the error that ends a run which the ranks agreed to stop, the same on every rank.

    Parameters
    ----------
    wishes
        Union of the ranks' wishes, not empty.
    step, steps
        Number of completed steps, and of all steps of the run.
    checkpoint
        Checkpoint that was written.
    """
    agreed = Wish(wishes)
    error = PreemptedError(
        f"{reason(agreed)}; {step} of {steps} steps are done and saved in {checkpoint}; resume "
        f"with --resume"
    )
    if Wish.INT in agreed:
        error.exit_code = 130
    error.agreed = True
    return error


def reason(wishes: int) -> str:
    """Format the reasons: ``SIGUSR2``, ``SIGTERM, the time limit is near``."""
    return ", ".join(text for wish, text in _TOLD.items() if wish in Wish(wishes))


def deadline(
    limit: float | None, environment: Mapping[str, str], now: float | None = None
) -> float | None:
    """Unix time at which the job will be ended: the earliest known limit; None if none is known.

    Parameters
    ----------
    limit
        Seconds that this run may take from now, or None.
    environment
        ``SLURM_JOB_END_TIME`` (Slurm 22.05 and newer) and ``HPCSAMP_END_TIME`` (job scripts set it
        for other schedulers) are Unix times.
    now
        Unix time (default: the system clock).
    """
    now = time.time() if now is None else now
    ends = [] if limit is None else [now + limit]
    for variable in ("SLURM_JOB_END_TIME", "HPCSAMP_END_TIME"):
        if environment.get(variable, "").isdigit():  # without a limit, Slurm sets a word
            ends.append(float(environment[variable]))
    return min(ends, default=None)
