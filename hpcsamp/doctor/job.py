"""Checks of the batch job: the scheduler's allocation and the grid that training would use."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from hpcsamp.doctor.check import Check
from hpcsamp.doctor.ranks import RankPlace, nodes
from hpcsamp.errors import UsageError
from hpcsamp.grid import Grid, plan_grid


def scheduler(environment: Mapping[str, str]) -> str:
    """Return the batch job: ``"Slurm job 7"``, ``"PBS job 7.host"``, or ``""`` outside of one."""
    for variable, name in (("SLURM_JOB_ID", "Slurm"), ("PBS_JOBID", "PBS")):
        if environment.get(variable):
            return f"{name} job {environment[variable]}"
    return ""


def tasks_per_node(environment: Mapping[str, str]) -> list[int]:
    """Return Slurm's number of tasks on each node: ``4(x2),3`` is 4, 4, 3; empty without Slurm."""
    found: list[int] = []
    for part in environment.get("SLURM_TASKS_PER_NODE", "").split(","):
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part)
        if match:
            found += [int(match[1])] * int(match[2] or 1)
    return found


def allocation(places: Sequence[RankPlace], environment: Mapping[str, str]) -> Check:
    """Check that the ranks use all nodes and tasks that the scheduler has allocated."""
    name, job = "job", scheduler(environment)
    if not job:
        return Check(name, "ok", "none: not started by Slurm or PBS")
    here = len(nodes(places))
    given = int(environment.get("SLURM_JOB_NUM_NODES", "0") or 0) or here
    planned = tasks_per_node(environment)
    layout = f"{job}, {len(places)} ranks on {here} of {given} nodes"
    if here < given:
        return Check(
            name,
            "warning",
            f"{layout}: {given - here} idle",
            "start ranks on every node (srun, or mpirun --map-by ppr:N:node), or request fewer "
            "nodes",
        )
    if planned and sum(planned) > len(places):
        return Check(
            name,
            "warning",
            f"{layout}, {sum(planned)} tasks were requested: {sum(planned) - len(places)} are idle",
            "use srun without -n, which starts all of them",
        )
    return Check(name, "ok", layout)


def plan(places: Sequence[RankPlace], model: int = 1) -> Grid:
    """Plan the grid of the job's ranks with ``parallel.samples = "node"``, the default.

    Parameters
    ----------
    model
        Size of the model axis, ``parallel.model``.

    Raises
    ------
    UsageError
        If nodes have different numbers of ranks, or M does not divide their number.
    """
    return plan_grid([str(p.node) for p in sorted(places, key=lambda p: p.rank)], "node", model)


def grid(places: Sequence[RankPlace], model: int = 1) -> Check:
    """Check the grid that training would use: data groups x sample ranks x model ranks."""
    name = "grid"
    sizes = {len(n) for n in nodes(places)}
    if len(sizes) > 1:
        counts = ", ".join(f"{n[0].host} {len(n)}" for n in nodes(places))
        return Check(
            name,
            "warning",
            f'ranks per node differ ({counts}): parallel.samples = "node" is refused',
            "start the same number of ranks on each node, or set parallel.samples to a number",
        )
    (each,) = sizes
    possible = [m for m in range(2, each + 1) if each % m == 0]
    try:
        planned = plan(places, model)
    except UsageError:
        return Check(
            name,
            "warning",
            f"parallel.model = {model} does not divide the {each} ranks of a node: "
            f'parallel.samples = "node" is refused',
            (f"set parallel.model = {_listed(possible)}, " if possible else "")
            + "start another number of ranks on each node, or set parallel.samples to a number",
        )
    d, p = planned.data_size, planned.sample_size
    how = (
        "each node has its own batch, and its ranks share the samples"
        if d > 1
        else "all ranks share one batch"
    )
    if model > 1:
        how += f", {model} neighbours hold parts of the network"
    elif possible:
        how += f"; parallel.model may be {_listed(possible)} here"
    return Check(
        name,
        "ok",
        f"{_count(d, 'data group')} x {_count(p, 'sample rank')}"
        + f" x {model} model ranks" * (model > 1)
        + f": {how}; S must be at least {p}",
    )


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'s' * (n > 1)}"


def _listed(sizes: Sequence[int]) -> str:
    *first, last = map(str, sizes)
    return f"{', '.join(first)} or {last}" if first else last
