"""Find out why a point failed from its exit code, its scheduler and the log of its last start."""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass
from pathlib import Path

TAIL = 1 << 20
"""Number of bytes at the end of a log that are searched."""

_MEMORY = r"oom[-_ ]?kill|out of memory.*killed|mem(ory)? .*exceeded limit"

#: What schedulers and the kernel write to a log when they end a job.
_ENDED_BY = (
    (re.compile(_MEMORY, re.IGNORECASE), "out of memory"),
    (re.compile(r"DUE TO TIME LIMIT|walltime .*exceeded limit"), "the time limit ended it"),
    (re.compile(r"DUE TO NODE FAILURE"), "a node failed"),
    (re.compile(r"DUE TO PREEMPTION"), "it was preempted"),
)  # fmt: skip

#: Lines of launchers, which report that a process ended, but not why.
_NOISE = re.compile(
    r"(srun|slurmstepd|salloc|prterun|prte|mpirun|orterun|mpiexec|pmixp?|bash)\b.*?:|[-=*_\s]+$"
    r"|(Primary job|Process name:|Exit code:|MPI_ABORT was invoked|with errorcode|NOTE: invoking"
    r"|You may or may not|exactly when Open MPI|Local host:|prterun noticed|Per user-direction"
    r"|\[[^\]]*\] \d+ more process(es)? ha)"
)
_RANK = re.compile(r"^(\[\d+,\d+\]<std(err|out)>: ?|\[\d+,\d+\]: ?|\d+: )")
_TRACEBACK = "Traceback (most recent call last):"
_START = re.compile(r"^campaign: start (\d+) of (\S+)")


@dataclass(frozen=True)
class Start:
    """A start of a point.

    Attributes
    ----------
    log
        Its log, relative to the folder ``submissions``, without ``.txt``: ``0002/log-00-3``.
    number
        Number of the start in that log, from 1.
    """

    log: str
    number: int

    @property
    def submission(self) -> int:
        """Number of the submission."""
        return int(self.log.split("/")[0])


def last_start(folder: Path) -> Start | None:
    """Return the last start of a point, as recorded by its job; None if unknown."""
    try:
        match = re.fullmatch(
            r"(\d+/log-[\w-]+) (\d+)\s*", (folder / ".start").read_text(errors="replace")
        )
    except OSError:
        return None
    return Start(match[1], int(match[2])) if match else None


def of_exit(code: str) -> str:
    """Describe an exit code: ``exit 137 (SIGKILL)``."""
    number = int(code) if code.isdigit() else 0
    note = "stopped early" if number == 75 else signal_name(number - 128)
    return f"exit {code}{f' ({note})' if note else ''}"


def signal_name(number: int) -> str:
    """Return the name of a signal; empty if there is none with this number."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return ""


def of_log(log: Path, name: str = "", number: int | None = None) -> str:
    """Return the cause of a failure from a log: one line, empty if there is none.

    The cause is, in this order, the scheduler's message about ending the job, the last exception or
    error of hpcsamp, or the last line that is not from a launcher.

    Parameters
    ----------
    name, number
        Point and number of the start to search; None for the last start.
    """
    try:
        with log.open("rb") as f:
            size = f.seek(0, 2)
            f.seek(max(0, size - TAIL))
            text = f.read().decode(errors="replace")
    except OSError:
        return ""
    lines = _of_start(text.splitlines(), name, number)
    if lines is None:
        return (
            "" if size > TAIL else f"start {number} is not in {log.name}: the point was run by hand"
        )
    return of_lines(lines)


def of_lines(lines: list[str]) -> str:
    """Return the cause of a failure from the lines of one start."""
    lines = [_RANK.sub("", line).rstrip() for line in lines]
    error = _last_error(lines)
    for line in reversed(lines):
        for pattern, words in _ENDED_BY:
            if pattern.search(line):
                return f"{words}: {error}" if error else words
    if error:
        return error
    own = [line for line in lines if line.startswith(("hpcsamp: ", "campaign: "))]
    own = [line for line in own if not _START.match(line)]
    if own:
        return own[-1].partition(": ")[2]
    left = [line.strip() for line in lines if line.strip() and not _NOISE.match(line.strip())]
    left = [line for line in left if not _START.match(line)]
    return f"last output: {left[-1]}" if left else ""


def _of_start(lines: list[str], name: str, number: int | None) -> list[str] | None:
    """Return the lines of a start; None if the log has marks of starts, but not of this one."""
    marks = [(i, m) for i, line in enumerate(lines) if (m := _START.match(line))]
    if not marks:
        return lines
    for i, mark in reversed(marks):
        if number is None or (int(mark[1]), mark[2]) == (number, name):
            later = [j for j, _ in marks if j > i]
            return lines[i + 1 : later[0] if later else None]
    return None


def _last_error(lines: list[str]) -> str:
    """Return the last error of hpcsamp or the last line of the last traceback."""
    for i in range(len(lines) - 1, -1, -1):
        if lines[i].startswith("hpcsamp: error: "):
            return lines[i].removeprefix("hpcsamp: error: ")
        if lines[i].startswith(_TRACEBACK):
            for line in lines[i + 1 :]:
                if line and not line.startswith((" ", "\t")):
                    return line
    return ""
