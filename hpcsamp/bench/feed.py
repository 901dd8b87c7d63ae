"""``hpcsamp bench feed``: time and bytes needed to deliver a batch to all ranks of a group.

All feeders alternate in one run and read the same steps. Seconds are wall time per step until every
rank has the batch; CPU seconds, requested bytes and read calls are sums over all ranks, the bytes
as counted by the kernel (``/proc/self/io``).
"""

from __future__ import annotations

import os
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hpcsamp.bench.feeders import Feeder
    from hpcsamp.data.dataset import Dataset
    from hpcsamp.grid import Topology

LIKES = ("cifar10", "era5")
BATCH = {"cifar10": 1024, "era5": 8}  # the global batches of the paper (section 5.5, 5.4)
ITEMS = {"cifar10": 20_000, "era5": 48}
STEPS = {"cifar10": 19, "era5": 6}


@dataclass(frozen=True)
class FeedCase:
    """Settings of one measurement: items, their order, and the state of the page cache."""

    like: str
    shuffle: str
    warm: bool
    batch: int

    def __str__(self) -> str:
        order = "contiguous" if self.shuffle == "none" else "shuffled"
        return f"{self.like}-like, {order}, {'warm' if self.warm else 'cold'}"


@dataclass
class FeedCost:
    """Costs per step in one round, summed over all ranks except for ``seconds``."""

    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    requested: list[float] = field(default_factory=list)
    calls: list[float] = field(default_factory=list)

    def medians(self) -> dict[str, float]:
        """Return the median of each cost over the rounds."""
        return {name: statistics.median(values) for name, values in vars(self).items()}


def made_up(like: str, folder: Path, topology: Topology) -> Dataset:
    """Write a synthetic set; items of the weather-like set have 17.7 MB, as in the paper."""
    from hpcsamp.data.dataset import Dataset
    from hpcsamp.data.manifest import ArraySpec
    from hpcsamp.ingest import build
    from hpcsamp.ingest.synthetic import synthetic

    target = folder / f"feed-{like}"
    if not topology.world.bcast((target / "manifest.json").is_file()):
        source = synthetic(like, ITEMS[like])
        source.splits = {"train": ITEMS[like]}
        if like == "era5":
            source.arrays["y"] = ArraySpec.plan((76, 121, 240), "<f4")
            source.coords = {}
        build(source, target, comm=topology.world)
    return Dataset.open(target)


def requested() -> tuple[int, int]:
    """Return the bytes and calls of this process's reads, as counted by the kernel."""
    told = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(told["rchar"]), int(told["syscr"])


def cpu_seconds() -> float:
    """Return user and system time of all threads of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def drop_cache(dataset: Dataset) -> None:
    """Drop the files from the page cache, so that the next read accesses the disk."""
    for shard in dataset.shards:
        descriptor = os.open(dataset.path / shard.file, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def measure(
    case: FeedCase, dataset: Dataset, topology: Topology, repeat: int, collective: bool
) -> dict[str, Any]:
    """Measure all feeders in turn on the same steps. Collective over the world."""
    from hpcsamp.bench.feeders import (
        DuplicatedPositional,
        DuplicatedRuns,
        RootBroadcast,
        SharedRing,
    )
    from hpcsamp.data.order import Order

    order = Order(dataset.count, case.batch, 1, case.shuffle)  # type: ignore[arg-type]
    by_runs = DuplicatedRuns(dataset, order)
    feeders: list[Feeder] = [
        by_runs,
        DuplicatedPositional(dataset, order),
        RootBroadcast(dataset, order, topology),
        SharedRing(dataset, order, topology, "direct"),
    ]
    if collective and case.warm:
        feeders.append(SharedRing(dataset, order, topology, "collective"))
    steps = min(order.steps, STEPS[case.like])
    costs = {f.name: FeedCost() for f in feeders}
    for round_ in range(repeat + 1):
        for feeder in feeders:
            if not case.warm and topology.is_root:
                drop_cache(dataset)
            cost = costs[feeder.name] if round_ else FeedCost()  # the first round warms up
            timed(partial(feeder.run, round_, 0, steps), steps, topology, cost)
    for feeder in feeders:
        feeder.close()
    found = {name: cost.medians() for name, cost in costs.items()}
    batch_bytes = sum(out.nbytes for out in by_runs.out)
    duplicated = [found[f.name] for f in feeders[:2]]
    best = {
        "seconds": min(f["seconds"] for f in duplicated),
        "cpu": min(f["cpu"] for f in duplicated),
    }
    for told in found.values():
        told["bytes_per_batch_byte"] = told["requested"] / batch_bytes
        told["seconds_ratio"] = told["seconds"] / best["seconds"]
        told["cpu_ratio"] = told["cpu"] / best["cpu"]
    return {"case": str(case), **vars(case), "batch_bytes": batch_bytes, "feeders": found}


def timed(run: Callable[[], None], steps: int, topology: Topology, cost: FeedCost) -> None:
    """Run a feeder on all ranks and add its costs per step."""
    world = topology.world
    world.Barrier()
    bytes_before, calls_before = requested()
    cpu_before, begun = cpu_seconds(), time.perf_counter()
    run()
    cpu = cpu_seconds() - cpu_before
    bytes_after, calls_after = requested()
    world.Barrier()
    cost.seconds.append(world.bcast(time.perf_counter() - begun) / steps)
    cost.cpu.append(world.allreduce(cpu) / steps)
    cost.requested.append(world.allreduce(bytes_after - bytes_before) / steps)
    cost.calls.append(world.allreduce(calls_after - calls_before) / steps)


def hidden(case: dict[str, Any], dataset: Dataset, topology: Topology) -> list[dict[str, float]]:
    """Measure the fraction of the feed that overlaps with compute of a given length."""
    from hpcsamp.data.loader import Loader

    alone = case["feeders"]["hpcsamp, direct"]["seconds"]
    found = []
    with Loader(
        dataset, topology, batch=case["batch"], shuffle=True, reader="direct", verify="off"
    ) as loader:
        for factor in (1, 4, 16):
            before, steps = loader.waited, 0
            begun = time.perf_counter()
            for _ in loader.raw(factor, 0, min(loader.steps_per_epoch, STEPS[case["like"]])):
                busy(alone * factor)
                steps += 1
            total = time.perf_counter() - begun
            waited = topology.world.allreduce(loader.waited - before) / topology.size
            found.append(
                {
                    "compute": alone * factor,
                    "waited": waited / total,
                    "hidden": max(0.0, 1 - waited / steps / alone),
                }
            )
    return found


def busy(seconds: float) -> None:
    """Compute for a given time like a step on a CPU, which often releases the interpreter."""
    import torch

    a, end = torch.ones(128, 128), time.perf_counter() + seconds
    while time.perf_counter() < end:
        a @ a
