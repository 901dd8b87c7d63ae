"""Where every rank runs, and what follows from it: cores, binding, threads, GPUs.

:func:`here` looks; everything else is a pure function of what the ranks saw.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hpcsamp.doctor.check import Check, name_ranks, spans

if TYPE_CHECKING:
    from mpi4py import MPI


@dataclass(frozen=True)
class RankPlace:
    """One rank.

    Attributes
    ----------
    rank, host
        Number and node name.
    node
        Lowest rank of the same node (the domain of shared memory).
    cores
        Cores it may run on.
    launcher_cores
        Cores its launcher may run on, if that can be told: more than the rank's own means that the
        launcher bound it.
    threads
        Compute threads that a training here would use.
    gpus
        What this process sees, by unique name.
    device
        What it would compute on: ``"cpu"`` or one of ``gpus``.
    """

    rank: int
    host: str
    node: int
    cores: tuple[int, ...]
    launcher_cores: tuple[int, ...]
    threads: int
    gpus: tuple[str, ...]
    device: str


def here(comm: MPI.Comm) -> list[RankPlace]:
    """The places of all ranks, in order. Collective."""
    import torch

    from hpcsamp.runtime import bind_device, limit_threads
    from hpcsamp.serial import library

    MPI = library(comm)  # noqa: N806
    node_comm = comm.Split_type(MPI.COMM_TYPE_SHARED, key=comm.Get_rank())
    threads = limit_threads(node_comm)
    device = bind_device("auto", node_comm.Get_rank())
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
    )
    node_comm.Free()
    return comm.allgather(place)


def _affinity(process: int) -> tuple[int, ...]:
    try:
        return tuple(sorted(os.sched_getaffinity(process)))
    except OSError:  # another user's, or gone
        return ()


def nodes(places: Sequence[RankPlace]) -> list[list[RankPlace]]:
    """The ranks of each node."""
    found: dict[int, list[RankPlace]] = {}
    for place in places:
        found.setdefault(place.node, []).append(place)
    return list(found.values())


def cores(places: Sequence[RankPlace]) -> Check:
    """Enough cores for the ranks of every node, and none left idle by binding."""
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
                f"fine for trying things out; for speed start at most {len(usable)} ranks here",
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
    return Check(name, "ok", f"{_count(len(places), 'rank')}, at least {fewest:g} cores for each")


def threads(places: Sequence[RankPlace], environment: Mapping[str, str]) -> Check:
    """No more compute threads than cores."""
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
                f"OMP_NUM_THREADS={max(1, len(usable) // len(node))}, or unset it: the cores are "
                "then shared out",
            )
    each = sorted({p.threads for p in places})
    source = "OMP_NUM_THREADS" if "OMP_NUM_THREADS" in environment else "the cores shared out"
    return Check(name, "ok", f"{spans(each)} per rank ({source})")


def gpus(places: Sequence[RankPlace], devices: Path = Path("/dev")) -> Check:
    """Every rank of a node computes on a GPU of its own."""
    name = "GPU"
    if not any(p.gpus for p in places):
        if (devices / "nvidiactl").exists() or (devices / "kfd").exists():
            return Check(
                name,
                "warning",
                "this node has one, but torch does not see it",
                "install a torch build for it; look at CUDA_VISIBLE_DEVICES and the job's request",
            )
        return Check(name, "ok", "none, computing on the CPU")
    if without := [p.rank for p in places if not p.gpus]:
        return Check(
            name,
            "problem",
            f"{name_ranks(without)} see no GPU, others do",
            "ask the launcher for a GPU per task (--gpus-per-task 1)",
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
                    f"{name_ranks(ranks)} of {node[0].host} share {device}: NCCL refuses that",
                    "start one rank per GPU, or give each task its own (--gpus-per-task 1)",
                )
    return Check(name, "ok", f"one for each of {_count(len(places), 'rank')}: {places[0].device}")


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'s' * (n != 1)}"
