"""One finding, how the findings of ranks become one, and how a check is kept from hanging."""

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

#: How many times the limit a call may take that makes progress.
PATIENCE = 5


@dataclass(frozen=True)
class Check:
    """What was found.

    Attributes
    ----------
    name
        What was looked at.
    status
        ``"ok"``; ``"warning"``: works, but slower or with less; ``"problem"``: does not work.
    found
        What is there or what is wrong, one line.
    mend
        What to do about it; empty if ok.
    """

    name: str
    status: Status
    found: str
    mend: str = ""


def merge(checks: Sequence[Check]) -> Check:
    """One finding from those of all ranks (in rank order): the worst, saying whose it is."""
    worst = max(checks, key=lambda c: _ORDER.index(c.status))
    if all(c == worst for c in checks):
        return worst
    whose = [rank for rank, c in enumerate(checks) if c == worst]
    return Check(worst.name, worst.status, f"{name_ranks(whose)}: {worst.found}", worst.mend)


def name_ranks(ranks: Sequence[int]) -> str:
    """``rank 3``, ``ranks 0-2, 5``."""
    return f"rank{'s' * (len(ranks) > 1)} {spans(ranks)}"


def spans(numbers: Sequence[int]) -> str:
    """Ascending numbers in short: ``0-3, 8``."""
    runs: list[list[int]] = []
    for n in sorted(numbers):
        if runs and n == runs[-1][1] + 1:
            runs[-1][1] = n
        else:
            runs.append([n, n])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


class NoAnswerError(Exception):
    """A call that was still running when its time was over. Its thread is left behind."""


@dataclass
class _Call:
    value: list = field(default_factory=list)
    error: BaseException | None = None


def reads() -> tuple[int, ...]:
    """Counts that grow while this process reads from a file system or maps a library."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_inblock, used.ru_majflt


def work() -> tuple[int, ...]:
    """Counts that grow while this process reads, or computes for more than moments."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return *reads(), int(10 * (used.ru_utime + used.ru_stime))


def bounded(
    function: Callable[[], Result],
    seconds: float,
    progress: Callable[[], object] | None = None,
) -> Result:
    """Call a function, but wait no longer than that.

    A call into MPI or a driver cannot be interrupted, so it runs in a daemon thread, which a hang
    leaves behind: end the process soon after.

    Parameters
    ----------
    function
        What to call.
    seconds
        How long to wait.
    progress
        If it is given, the time begins anew whenever its value changes, :data:`PATIENCE` times at
        most: importing torch takes minutes where the file system is cold and the machine loaded.

    Raises
    ------
    NoAnswerError
        If the time is over.
    BaseException
        What the function raised.
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
        more = f", though it went on until {since - began:.0f} s" if since > began else ""
        raise NoAnswerError(f"no answer within {seconds:g} s{more}")
    if call.error is not None:
        raise call.error
    return call.value[0]
