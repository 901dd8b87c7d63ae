"""The result of one check, the merged result of all ranks, and calls with a time limit."""

from __future__ import annotations

import resource
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar

Status = Literal["ok", "warning", "problem"]
_ORDER: tuple[Status, ...] = ("ok", "warning", "problem")
Result = TypeVar("Result")

#: Factor by which a call that makes progress may exceed its time limit.
PATIENCE = 5


@dataclass(frozen=True)
class Check:
    """Result of one check.

    Attributes
    ----------
    name
        Subject of the check.
    status
        ``"ok"``; ``"warning"``: works, but slower or with fewer features; ``"problem"``: does not
        work.
    found
        Result of the check or the problem, in one line.
    mend
        How to fix the problem; empty if ok.
    """

    name: str
    status: Status
    found: str
    mend: str = ""


def merge(checks: Sequence[Check]) -> Check:
    """Return the worst of the results of all ranks, with the ranks that it comes from."""
    worst = max(checks, key=lambda c: _ORDER.index(c.status))
    if all(c == worst for c in checks):
        return worst
    whose = [rank for rank, c in enumerate(checks) if c == worst]
    return Check(worst.name, worst.status, f"{name_ranks(whose)}: {worst.found}", worst.mend)


def name_ranks(ranks: Sequence[int]) -> str:
    """Format ranks for messages: ``rank 3``, ``ranks 0-2, 5``."""
    return f"rank{'s' * (len(ranks) > 1)} {spans(ranks)}"


def spans(numbers: Sequence[int]) -> str:
    """Format numbers as ranges: ``0-3, 8``."""
    runs: list[list[int]] = []
    for n in sorted(numbers):
        if runs and n == runs[-1][1] + 1:
            runs[-1][1] = n
        else:
            runs.append([n, n])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


class NoAnswerError(Exception):
    """Raised when a call does not return within its time limit. Its thread keeps running."""


@dataclass
class _Call:
    value: list = field(default_factory=list)
    error: BaseException | None = None


def reads() -> tuple[int, ...]:
    """Return counters that grow while this process reads files or maps a library."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_inblock, used.ru_majflt


def work() -> tuple[int, ...]:
    """Return counters that grow while this process reads files or computes."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return *reads(), int(10 * (used.ru_utime + used.ru_stime))


def bounded(
    function: Callable[[], Result],
    seconds: float,
    progress: Callable[[], object] | None = None,
) -> Result:
    """Call a function with a time limit.

    A call into MPI or a driver cannot be interrupted, so it runs in a daemon thread. After a hang
    the thread keeps running: end the process soon.

    Parameters
    ----------
    function
        Function to call.
    seconds
        Time limit in seconds.
    progress
        If given, the time restarts whenever its value changes, up to :data:`PATIENCE` times the
        limit in all: importing torch takes minutes on a cold file system and a loaded machine.

    Raises
    ------
    NoAnswerError
        If the function does not return in time.
    BaseException
        If the function raises it.
    """
    call = _Call()

    def run() -> None:
        try:
            call.value.append(function())
        except BaseException as e:
            call.error = e

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    began = since = time.monotonic()
    seen = progress() if progress else None
    while thread.is_alive() and (left := since + seconds - time.monotonic()) > 0:
        thread.join(min(left, 0.5))
        now = time.monotonic()
        if progress and (current := progress()) != seen and now < began + PATIENCE * seconds:
            seen, since = current, now
    if thread.is_alive():
        more = f", although it made progress until {since - began:.0f} s" if since > began else ""
        raise NoAnswerError(f"no answer within {seconds:g} s{more}")
    if call.error is not None:
        raise call.error
    return call.value[0]
