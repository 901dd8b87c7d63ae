"""Checkpoints: write speed to a folder in bytes per second, and how long training pauses.

Means, log standard deviations and the two moments of Adam are written by all ranks of the job at
the same time, as a run does it. Variants take turns.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hpcsamp.collectives import choose, updates_of
from hpcsamp.grid import Topology
from hpcsamp.methods import MeanField
from hpcsamp.processes import peak_rss_mb
from hpcsamp.run import checkpoint
from hpcsamp.run.places import Key, Places
from hpcsamp.run.retention import prune
from hpcsamp.run.taken import Taken
from hpcsamp.run.writing import Writing

BYTES = 24
"""Bytes of a checkpoint per weight: mean, log standard deviation, two moments of each, float32."""


def rates(folder: Path, size: int, rounds: int, topology: Topology) -> dict[str, list[float]]:
    """Measure bytes per second per rank while all ranks write, without and with a final fsync.

    Parameters
    ----------
    size
        Number of bytes that each rank writes.
    """
    world, path = topology.world, folder / f".rate.{topology.rank}.part"
    numbers = torch.ones(size // 4)
    found: dict[str, list[float]] = {"written": [], "on the disk": []}
    try:
        for _ in range(rounds):
            world.Barrier()
            began = time.perf_counter()
            with path.open("w+b") as f:
                checkpoint.write(f, {"x": numbers})
                found["written"].append(size / (time.perf_counter() - began))
                os.fsync(f.fileno())
            found["on the disk"].append(size / (time.perf_counter() - began))
            path.unlink()
    finally:
        path.unlink(missing_ok=True)
    return found


def stops(
    folder: Path, size: int, rounds: int, sharded: bool, topology: Topology
) -> dict[str, Any]:
    """Measure how long a rank pauses for a checkpoint, written in the background or not.

    Parameters
    ----------
    size
        Size of the whole checkpoint in bytes.
    sharded
        Whether the optimiser's state is divided among the ranks.

    Returns
    -------
    dict
        Results of this rank: by variant, the pause in seconds; how long matrix products on one
        core take while a checkpoint is written and otherwise; and the peak memory in MiB before
        and after the checkpoints.
    """
    weights = max(1, size // BYTES)
    method = MeanField(nn.Linear(weights, 1, bias=False), seed=1)
    collectives = choose(topology, "mpi")
    updates = updates_of(method, collectives, sharded)
    optimizer = torch.optim.Adam(updates.parts, fused=True)
    for p in updates.parts:
        p.grad = torch.zeros_like(p)
    optimizer.step()
    optimizer.zero_grad()
    places, buffers = Places(method, topology, updates), dict[Key, Tensor]()
    matrix = torch.ones(512, 512)
    path = checkpoint.step_path(folder, 1)

    def work() -> float:
        began = time.perf_counter()
        for _ in range(5):
            matrix @ matrix
        return time.perf_counter() - began

    def begin(kept: dict[Key, Tensor] | None) -> Writing:
        taken = Taken(places, kept)
        taken.add("method", method.state_dict())
        taken.add("optimizer", optimizer.state_dict())
        return Writing(path, taken, {"step": 1}, topology.world)

    found: dict[str, Any] = {"behind": [], "waiting": [], "work beside": [], "work alone": []}
    before = peak_rss_mb()
    for _ in range(rounds):
        seconds, writing = _timed(lambda: begin(buffers))
        while topology.world.allreduce(writing.busy) > 0:
            found["work beside"].append(work())
        more, _ = _timed(lambda writing=writing: writing.end(lambda: None))  # type: ignore[misc]
        found["behind"].append(seconds + more)
        found["work alone"] += [work() for _ in range(20)]
        topology.world.Barrier()
        seconds, _ = _timed(lambda: begin(None).end(lambda: None))
        found["waiting"].append(seconds)
    found["memory"] = [before, peak_rss_mb()]
    with suppress(OSError):
        if topology.is_root:
            path.unlink()
            prune(folder, 1)
    return found


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    made = work()
    return time.perf_counter() - began, made


def lines(of: dict[str, Any], size: int, whole: int, window: float, ranks: int) -> list[str]:
    """Return the results as lines of text.

    Parameters
    ----------
    of
        ``rates`` and ``stops``, each with one entry per rank.
    size
        Size of the checkpoint that was written, in bytes.
    whole, window
        Number of bytes that must be on the disk, and the time limit for this in seconds.
    """
    median = statistics.median
    each = [median(r["on the disk"]) for r in of["rates"]]
    fast = [median(r["written"]) for r in of["rates"]]
    needed = whole / window / ranks
    stop = [median(s["behind"]) for s in of["stops"]]
    wait = [median(s["waiting"]) for s in of["stops"]]
    slower = [median(s["work beside"] or [0.0]) / median(s["work alone"]) for s in of["stops"]]
    peaks = [s["memory"][1] for s in of["stops"]]
    return [
        f"{ranks} ranks at once, each: {min(fast) / 1e9:.2f} GB/s written, "
        f"{min(each) / 1e9:.2f} GB/s on the disk (the slowest)",
        f"{whole / 1e9:g} GB in {window:g} s need {needed / 1e9:.3f} GB/s of each of {ranks} ranks"
        f" ({whole / window / 1e9:.2f} GB/s in all): "
        + ("enough" if min(each) >= needed else "more than there are"),
        f"a checkpoint of {size / 1e9:.2f} GB stops training for {max(stop):.3f} s, "
        f"{max(wait):.3f} s if it is waited for: {max(wait) / max(stop):.1f} times as long",
        f"work beside the writing takes {max(slower):.2f} of its time alone",
        f"peak memory of rank 0 over that of the other ranks: "
        f"{peaks[0] / max(peaks[1:] or [peaks[0]]):.2f} ({', '.join(f'{p:.0f}' for p in peaks)} "
        f"MiB)",
    ]
