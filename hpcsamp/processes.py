"""Identify processes, so that another process can check later whether they still run."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path


def started(pid: int) -> str | None:
    """Return the start time of a process in clock ticks; None if it has ended.

    With the pid, the start time identifies a process uniquely.
    """
    try:
        facts = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if facts[0] == "Z" else facts[19]


def peak_rss_mb() -> float:
    """Return the peak resident memory of this process so far, in MiB.

    On Linux it is read from ``/proc``: the value of ``getrusage`` there starts at the resident size
    of the parent process.
    """
    with suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size / (2**20 if sys.platform == "darwin" else 1024)


def machine() -> str:
    """Identify the machine, its boot and the pid namespace, within which a pid is unique.

    Empty if the system does not provide this.
    """
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    return ""


def ended(pid: int, start: str | None) -> bool:
    """Whether a process on this machine has ended: its pid is unused or belongs to another process.

    A process of another user that the system hides counts as running.
    """
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        now = started(pid)
        return now is not None and now != start
    return started(pid) != start


def job(environment: Mapping[str, str]) -> tuple[str, str]:
    """Return the batch job of this process and its restart count; empty if unknown."""
    for name in ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "FLUX_JOB_ID"):
        if environment.get(name):
            restart = environment.get("SLURM_RESTART_COUNT", "0") if "SLURM" in name else ""
            return environment[name], restart
    return "", ""
