"""Resources of an array element in the scheduler's accounting: times, memory and energy."""

from __future__ import annotations

import re
from dataclasses import dataclass

SACCT = "JobID,ElapsedRaw,TotalCPU,MaxRSS,ConsumedEnergyRaw"
"""Columns that :func:`of_sacct` reads."""

_UNITS = {"": 1 / 1024**2, "K": 1 / 1024, "M": 1.0, "G": 1024.0, "T": 1024.0**2}


@dataclass(frozen=True)
class Used:
    """Resources used by an element of an array over all its starts.

    Attributes
    ----------
    seconds
        Wall-clock time of its allocation in seconds.
    cpu_seconds
        CPU time of all its processes in seconds; None if it was not measured.
    memory
        Largest resident memory of a task in MiB; None if it was not measured.
    joules
        Energy of its nodes in joules; None if it was not measured.
    """

    seconds: float
    cpu_seconds: float | None = None
    memory: float | None = None
    joules: float | None = None


def of_sacct(text: str) -> dict[tuple[str, int], Used]:
    """Read the output of ``sacct -n -P -D -o`` with the columns :data:`SACCT`.

    Times and energies of the starts of an element are added (``-D`` lists each of them); the memory
    is the largest of its steps, which have lines of their own.
    """
    found: dict[tuple[str, int], Used] = {}
    for line in text.splitlines():
        name, elapsed, cpu, memory, energy = [*line.strip().split("|"), *[""] * 5][:5]
        match = re.fullmatch(r"(\d+)_(\d+)(\..+)?", name)
        if not match:
            continue
        element = (match[1], int(match[2]))
        before = found.get(element, Used(0.0))
        most = _most(before.memory, _mebibytes(memory))
        if match[3]:  # a step, whose time and energy are part of its job's
            before = Used(before.seconds, before.cpu_seconds, most, before.joules)
        else:
            before = Used(
                before.seconds + (float(elapsed) if elapsed.isdigit() else 0.0),
                _sum(before.cpu_seconds, _cpu_seconds(cpu)),
                most,
                _sum(before.joules, float(energy) if energy.isdigit() and int(energy) else None),
            )
        found[element] = before
    return found


def _cpu_seconds(text: str) -> float | None:
    """Convert ``[D-][HH:]MM:SS[.mmm]`` to seconds; None for zero, which means not measured."""
    match = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+(?:\.\d+)?)", text)
    if not match:
        return None
    days, hours, minutes, seconds = (float(part or 0) for part in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds or None


def _mebibytes(text: str) -> float | None:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT]?)", text)
    return float(match[1]) * _UNITS[match[2]] or None if match else None


def _sum(a: float | None, b: float | None) -> float | None:
    return a if b is None else b + (a or 0.0)


def _most(a: float | None, b: float | None) -> float | None:
    return a if b is None else max(a or 0.0, b)
