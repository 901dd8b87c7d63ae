"""Memory that is available to a run on this machine, and memory that this process uses."""

from __future__ import annotations

from pathlib import Path

import torch


def available(device: torch.device | None = None) -> int:
    """Return the available bytes of the GPU, or of the node within this job's control group."""
    if device is not None and device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    free = 2**62
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(v.split()[1]) * 1024 for v in lines if v.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError):
        pass  # not Linux: the memory is unknown
    return min(free, _group_limit())


def _group_limit() -> int:
    """Return the bytes that the job's control group (Slurm, containers) still allows."""
    try:
        own = Path("/proc/self/cgroup").read_text().splitlines()[-1].rsplit(":", 1)[-1]
    except (OSError, IndexError):
        return 2**62
    left = 2**62
    folder = Path("/sys/fs/cgroup") / own.lstrip("/")
    for place in (folder, *folder.parents):
        try:
            limit = int((place / "memory.max").read_text())
            left = min(left, limit - int((place / "memory.current").read_text()) + _cached(place))
        except (OSError, ValueError):  # no limit here, or "max"
            continue
    return max(0, left)


def _cached(group: Path) -> int:
    """Return the bytes of a control group that hold cached files and can be freed."""
    lines = (group / "memory.stat").read_text().splitlines()
    numbers = dict(line.split() for line in lines)
    return int(numbers.get("inactive_file", 0)) + int(numbers.get("active_file", 0))


def held(device: torch.device) -> int:
    """Return the bytes that this process already uses; part of the estimate."""
    if device.type == "cuda":
        return 0
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return 0
    return pages * 4096
