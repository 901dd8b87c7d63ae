"""Processes, named so that another one can tell later whether they still run; and their jobs."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path


def started(pid: int) -> str | None:
    """When a process started, in clock ticks: with the pid this names it for good. None if it has
    ended.
    """
    try:
        facts = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if facts[0] == "Z" else facts[19]


def peak_rss_mb() -> float:
    """Peak resident memory of this process so far, in MiB.

    Not what ``getrusage`` reports where the system tells more: on Linux that starts at the resident
    size of the process that started this one.
    """
    with suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size / (2**20 if sys.platform == "darwin" else 1024)


def machine() -> str:
    """This boot of this machine and its namespace of pids: where a pid names one process.

    Empty where the system does not tell.
    """
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    return ""


def ended(pid: int, start: str | None) -> bool:
    """Whether a process of this machine has ended: there is none of this pid, or it is another.

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
    """The batch job of this process and its how-manieth start, as far as the scheduler tells."""
    for name in ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "FLUX_JOB_ID"):
        if environment.get(name):
            restart = environment.get("SLURM_RESTART_COUNT", "0") if "SLURM" in name else ""
            return environment[name], restart
    return "", ""
