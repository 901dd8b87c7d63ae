"""Checks of the cores, binding, threads and GPUs of the ranks.

:func:`here` collects the facts of all ranks; all other functions are pure functions of them.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hpcsamp.doctor.check import Check, name_ranks, spans
from hpcsamp.errors import UsageError

if TYPE_CHECKING:
    from mpi4py import MPI


@dataclass(frozen=True)
class RankPlace:
    """Host, cores, threads and GPUs of one rank.

    Attributes
    ----------
    rank, host
        Rank and host name.
    node
        Lowest rank on the same node (the domain of shared memory).
    cores
        Cores that the rank may run on.
    launcher_cores
        Cores that its launcher may run on, if known; if these are more than the rank's, the
        launcher has bound the rank.
    threads
        Compute threads that training would use here.
    gpus
        GPUs that this process sees, by unique name.
    device
        Device that training would use: ``"cpu"`` or one of ``gpus``.
    trouble
        Why training would refuse the device of the rank; empty if it would not.
    """

    rank: int
    host: str
    node: int
    cores: tuple[int, ...]
    launcher_cores: tuple[int, ...]
    threads: int
    gpus: tuple[str, ...]
    device: str
    trouble: str = ""


def here(comm: MPI.Comm) -> list[RankPlace]:
    """Return the places of all ranks, in rank order. Collective."""
    import torch

    from hpcsamp.runtime import bind_device, limit_threads
    from hpcsamp.serial import library

    MPI = library(comm)  # noqa: N806
    node_comm = comm.Split_type(MPI.COMM_TYPE_SHARED, key=comm.Get_rank())
    threads = limit_threads(node_comm)
    trouble, device = "", torch.device("cpu")
    try:
        device = bind_device("auto", node_comm.Get_rank())
    except UsageError as e:  # the other ranks must not wait for this one
        trouble = str(e)
    gpus = []
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            p = torch.cuda.get_device_properties(i)
            gpus.append(f"{p.name} {str(getattr(p, 'uuid', i))[:8]}")
    place = RankPlace(
        rank=comm.Get_rank(),
        host=platform.node(),
        node=node_comm.bcast(comm.Get_rank()),
        cores=tuple(sorted(os.sched_getaffinity(0))),
        launcher_cores=_affinity(os.getppid()),
        threads=threads,
        gpus=tuple(gpus),
        device="cpu" if device.type == "cpu" else gpus[device.index or 0],
        trouble=trouble,
    )
    node_comm.Free()
    return comm.allgather(place)


def _affinity(process: int) -> tuple[int, ...]:
    try:
        return tuple(sorted(os.sched_getaffinity(process)))
    except OSError:  # the process belongs to another user, or has ended
        return ()


def nodes(places: Sequence[RankPlace]) -> list[list[RankPlace]]:
    """Group the ranks by node."""
    found: dict[int, list[RankPlace]] = {}
    for place in places:
        found.setdefault(place.node, []).append(place)
    return list(found.values())


def cores(places: Sequence[RankPlace]) -> Check:
    """Check that every node has a core for each rank, and that binding leaves no core idle."""
    name = "cores"
    for node in nodes(places):
        host, ranks = node[0].host, len(node)
        usable = set().union(*(p.cores for p in node))
        launcher = set().union(*(p.launcher_cores for p in node))
        if ranks > len(usable):
            if launcher > usable:
                return Check(
                    name,
                    "warning",
                    f"{host}: {ranks} ranks are bound to {_count(len(usable), 'core')} "
                    f"({spans(sorted(usable))}) of {len(launcher)}",
                    "mpirun --bind-to none, or srun --cpu-bind=none --cpus-per-task=N",
                )
            return Check(
                name,
                "warning",
                f"{host}: {ranks} ranks share {_count(len(usable), 'core')}",
                f"fine for tests; for speed start at most {len(usable)} ranks on this node",
            )
        if launcher > usable:
            return Check(
                name,
                "warning",
                f"{host}: {_count(ranks, 'rank')} bound to {_count(len(usable), 'core')} "
                f"({spans(sorted(usable))}), {len(launcher - usable)} of the launcher's are idle",
                "mpirun --bind-to none (or --map-by slot:PE=N), or srun --cpus-per-task=N",
            )
    fewest = min(len(set().union(*(p.cores for p in n))) / len(n) for n in nodes(places))
    return Check(name, "ok", f"{_count(len(places), 'rank')}, at least {fewest:g} cores per rank")


def threads(places: Sequence[RankPlace], environment: Mapping[str, str]) -> Check:
    """Check that there are no more compute threads than cores."""
    name = "threads"
    for node in nodes(places):
        usable = set().union(*(p.cores for p in node))
        total = sum(p.threads for p in node)
        if total > len(usable) and total > len(node):
            return Check(
                name,
                "warning",
                f"{node[0].host}: {len(node)} ranks with {total} threads on "
                f"{_count(len(usable), 'core')}",
                f"set OMP_NUM_THREADS={max(1, len(usable) // len(node))}, or unset it: hpcsamp "
                "then divides the cores among the ranks",
            )
    each = sorted({p.threads for p in places})
    source = "OMP_NUM_THREADS" if "OMP_NUM_THREADS" in environment else "cores / ranks"
    return Check(name, "ok", f"{spans(each)} per rank ({source})")


def gpus(places: Sequence[RankPlace], devices: Path = Path("/dev")) -> Check:
    """Check that every rank of a node has its own GPU."""
    name = "GPU"
    for p in places:
        if p.trouble:
            return Check(
                name,
                "problem",
                f"rank {p.rank} on {p.host}: {p.trouble}",
                "install a torch build for this driver and GPU; check CUDA_VISIBLE_DEVICES and "
                "ROCR_VISIBLE_DEVICES",
            )
    if not any(p.gpus for p in places):
        if (devices / "nvidiactl").exists() or (devices / "kfd").exists():
            return Check(
                name,
                "warning",
                "this node has a GPU, but torch does not see it",
                "install a torch build for this GPU; check CUDA_VISIBLE_DEVICES and that the job "
                "requests GPUs",
            )
        return Check(name, "ok", "none: training uses the CPU")
    if without := [p.rank for p in places if not p.gpus]:
        return Check(
            name,
            "problem",
            f"{name_ranks(without)} see{'s' * (len(without) == 1)} no GPU, other ranks do",
            "request one GPU per task from the launcher (--gpus-per-task 1)",
        )
    for node in nodes(places):
        users: dict[str, list[int]] = {}
        for p in node:
            users.setdefault(p.device, []).append(p.rank)
        for device, ranks in users.items():
            if len(ranks) > 1:
                return Check(
                    name,
                    "warning",
                    f"{name_ranks(ranks)} on {node[0].host} share {device}, which NCCL does not "
                    f"support",
                    "start one rank per GPU, or give each task its own (--gpus-per-task 1)",
                )
    return Check(name, "ok", f"one per rank, {_count(len(places), 'rank')}: {places[0].device}")


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'s' * (n != 1)}"
