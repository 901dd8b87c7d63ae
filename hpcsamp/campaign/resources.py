"""Resources of a point: ranks, nodes, GPUs, cores, time and memory."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from hpcsamp.config import seconds
from hpcsamp.errors import UsageError
from hpcsamp.spelling import shown

_UNITS = {"": 1, "M": 1, "G": 1024, "T": 1024 * 1024}

MOST = {
    "ranks": 10**8,
    "nodes": 10**6,
    "ranks_per_node": 10**5,
    "cores": 10**5,
    "gpus": 10**4,
    "minutes": 10**7,
    "memory": 10**9,
    "points_per_job": 10**5,
}
"""Largest values, beyond any machine; a larger one is a typing mistake. Memory in MiB."""


@dataclass(frozen=True, order=True)
class Shape:
    """Resources of one point. Points with equal resources become one job array.

    Attributes
    ----------
    ranks, nodes
        Total number of MPI ranks, and of nodes.
    cores
        Cores per rank.
    gpus
        GPUs per node.
    minutes
        Wall-clock time limit in minutes.
    memory
        Memory per node in MiB; 0 for the default of the scheduler.
    points_per_job
        Number of points that one job runs one after the other, each with these resources.
    """

    ranks: int = 1
    nodes: int = 1
    cores: int = 1
    gpus: int = 0
    minutes: float = 60.0
    memory: int = 0
    points_per_job: int = 1

    @property
    def ranks_per_node(self) -> int:
        """Ranks per node; the largest number if nodes differ."""
        return -(-self.ranks // self.nodes)

    @property
    def core_hours(self) -> float:
        """Core-hours of one point that uses its whole time limit."""
        return self.ranks * self.cores * self.minutes / 60

    @property
    def time(self) -> str:
        """The time limit as ``hours:minutes:seconds``."""
        return _clock(self.minutes)

    @property
    def job_minutes(self) -> float:
        """Wall-clock time limit of a job in minutes: the sum over its points."""
        return self.minutes * self.points_per_job

    @property
    def job_time(self) -> str:
        """The time limit of a job as ``hours:minutes:seconds``."""
        return _clock(self.job_minutes)

    def describe(self) -> str:
        """Describe the resources on one line: ``4 ranks on 2 nodes, 8 cores a rank, 01:00:00``."""
        parts = [
            f"{self.ranks} rank{'s' * (self.ranks > 1)} on {self.nodes} "
            f"node{'s' * (self.nodes > 1)}",
            f"{self.cores} core{'s' * (self.cores > 1)} a rank",
        ]
        if self.gpus:
            parts.append(f"{self.gpus} GPU{'s' * (self.gpus > 1)} a node")
        if self.memory:
            parts.append(f"{self.memory} MiB a node")
        if self.points_per_job > 1:
            parts.append(f"{self.points_per_job} points a job")
        return ", ".join([*parts, self.time])

    def more(self, time: str | None, memory: str | None) -> Shape:
        """Return the same resources with another time or memory, unless None."""
        changed = self
        if time is not None:
            changed = replace(changed, minutes=minutes(time, "--time"))
        if memory is not None:
            changed = replace(changed, memory=mebibytes(memory, "--memory"))
        return changed


def shape(given: Mapping[str, Any]) -> Shape:
    """Read resources from their keys; any two of ranks, nodes, ranks_per_node determine the third.

    Raises
    ------
    UsageError
        If keys contradict each other; the message contains the key and the numbers.
    """
    count = {
        name: _whole(given.get(name), f"resources.{name}", least)
        for name, least in (("ranks", 1), ("nodes", 1), ("ranks_per_node", 1), ("cores", 1))
    }
    gpus = _whole(given.get("gpus"), "resources.gpus", 0) or 0
    ranks, nodes, each = count["ranks"], count["nodes"], count["ranks_per_node"]
    if ranks is None:
        ranks = (nodes or 1) * (each or 1)
    if nodes is None:
        nodes = -(-ranks // each) if each else 1
    if each is not None and (ranks > nodes * each or ranks <= (nodes - 1) * each):
        raise UsageError(
            f"resources: {ranks} ranks do not fit {nodes} nodes with {each} ranks_per_node"
        )
    if ranks < nodes:
        raise UsageError(f"resources: {ranks} ranks cannot use {nodes} nodes")
    return Shape(
        ranks=ranks,
        nodes=nodes,
        cores=count["cores"] or 1,
        gpus=gpus,
        minutes=minutes(given.get("time", "01:00:00"), "resources.time"),
        memory=mebibytes(given.get("memory", 0), "resources.memory"),
        points_per_job=_whole(given.get("points_per_job"), "resources.points_per_job", 1) or 1,
    )


def minutes(value: Any, where: str) -> float:
    """Convert a duration to minutes, see :func:`hpcsamp.config.seconds`."""
    try:
        found = seconds(value) / 60
    except (TypeError, ValueError) as e:
        raise UsageError(f"{where}: {e}") from None
    _check_most(found, where, "minutes")
    return found


def mebibytes(value: Any, where: str) -> int:
    """Convert ``"8G"``, ``"500M"``, ``"1T"`` or a number of MiB to MiB."""
    pattern = r"([0-9]{1,15}(?:\.[0-9]{1,15})?)\s*([MGT]?)(?:i?B)?"
    match = isinstance(value, int | float | str) and re.fullmatch(
        pattern, shown(value).strip("'\" "), re.IGNORECASE
    )
    if not match:
        raise UsageError(f"{where} = {shown(value)}: must be a size, e.g. 8G or 500M")
    found = round(float(match[1]) * _UNITS[match[2].upper()])
    _check_most(found, where, "memory")
    return found


def _clock(minutes: float) -> str:
    whole = round(minutes * 60)
    return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def _whole(value: Any, where: str, least: int) -> int | None:
    if value is None:
        return None
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value != int(value):
        raise UsageError(f"{where} = {shown(value)}: must be a whole number")
    if value < least:
        raise UsageError(f"{where} = {shown(value)}: must be at least {least}")
    _check_most(value, where, where.rpartition(".")[2])
    return int(value)


def _check_most(value: float, where: str, what: str) -> None:
    if value > MOST[what]:
        unit = {"minutes": " minutes", "memory": " MiB"}.get(what, "")
        raise UsageError(f"{where} = {shown(value)}{unit}: must be at most {MOST[what]}{unit}")
