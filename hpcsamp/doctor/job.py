"""The job that the ranks are in: what the scheduler gave, and the grid that comes of it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from hpcsamp.doctor.check import Check
from hpcsamp.doctor.ranks import RankPlace, nodes
from hpcsamp.errors import UsageError
from hpcsamp.grid import Grid, plan_grid


def scheduler(environment: Mapping[str, str]) -> str:
    """``"Slurm job 7"``, ``"PBS job 7.host"`` or ``""``."""
    for variable, name in (("SLURM_JOB_ID", "Slurm"), ("PBS_JOBID", "PBS")):
        if environment.get(variable):
            return f"{name} job {environment[variable]}"
    return ""


def tasks_per_node(environment: Mapping[str, str]) -> list[int]:
    """Tasks that Slurm planned on each node: ``4(x2),3`` are 4, 4 and 3; empty without Slurm."""
    found: list[int] = []
    for part in environment.get("SLURM_TASKS_PER_NODE", "").split(","):
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part)
        if match:
            found += [int(match[1])] * int(match[2] or 1)
    return found


def allocation(places: Sequence[RankPlace], environment: Mapping[str, str]) -> Check:
    """Whether the ranks fill what the scheduler gave."""
    name, job = "job", scheduler(environment)
    if not job:
        return Check(name, "ok", "none: not started by Slurm or PBS")
    here = len(nodes(places))
    given = int(environment.get("SLURM_JOB_NUM_NODES", "0") or 0) or here
    planned = tasks_per_node(environment)
    told = f"{job}, {len(places)} ranks on {here} of {given} nodes"
    if here < given:
        return Check(
            name,
            "warning",
            f"{told}: {given - here} idle",
            "start ranks on every node, or ask for fewer: srun, or mpirun --map-by ppr:N:node",
        )
    if planned and sum(planned) > len(places):
        return Check(
            name,
            "warning",
            f"{told}, {sum(planned)} tasks were asked for: {sum(planned) - len(places)} are idle",
            "srun without -n starts all of them",
        )
    return Check(name, "ok", told)


def plan(places: Sequence[RankPlace]) -> Grid:
    """The grid of these ranks with ``parallel.samples = "node"``, the default.

    Raises
    ------
    UsageError
        If nodes hold different numbers of ranks.
    """
    return plan_grid([str(p.node) for p in sorted(places, key=lambda p: p.rank)], "node")


def grid(places: Sequence[RankPlace]) -> Check:
    """The grid that training makes of these ranks: D data groups x P sample ranks."""
    name = "grid"
    try:
        planned = plan(places)
    except UsageError:
        sizes = ", ".join(f"{n[0].host} {len(n)}" for n in nodes(places))
        return Check(
            name,
            "warning",
            f'ranks per node differ ({sizes}): parallel.samples = "node" is refused',
            "start equally many ranks on each node, or set parallel.samples to a number",
        )
    d, p = planned.data_size, planned.sample_size
    how = "a batch for each node, its ranks split the samples" if d > 1 else "all share a batch"
    return Check(
        name,
        "ok",
        f"{d} data group{'s' * (d > 1)} x {p} sample rank{'s' * (p > 1)}: {how}; S at least {p}",
    )
