"""``hpcsamp bench scaling``: speed-up and efficiency of whole training steps over ranks.

A step includes feed, augmentation, forward and backward pass, exchange, agreement and optimiser,
but no evaluation and no checkpoint. The measures are those of the paper (section 6): speed-up
``S(p) = T1(n) / Tp(n)`` of a fixed task, efficiency ``E(p) = T1(n) / Tp(n p)`` of a task that grows
with the ranks. If the batch grows with the ranks, ``T`` is the time of an epoch, which always has
the same items.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from hpcsamp.bench import records
from hpcsamp.bench.turns import Turns
from hpcsamp.bench.variants import OURS, Ours, Variant, prepared
from hpcsamp.bench.worker import peak_rss_mb
from hpcsamp.bench.workloads import MODEL, ScalingPoint, ScalingWorkload, Size
from hpcsamp.grid import Topology
from hpcsamp.names import ScalingMode

WATCHED = 3
"""Number of rounds that are timed by phase."""


@dataclass(frozen=True)
class Experiment:
    """A scaling experiment.

    Attributes
    ----------
    workload, name, size
        The workload, its name and its size.
    mode
        Scaling mode: which quantity grows with the ranks.
    settings
        Additional keys of the configuration, for all points.
    data
        Dataset folder, ``"synthetic"``, or None for that of the configuration.
    """

    name: str
    workload: ScalingWorkload
    size: Size
    mode: ScalingMode
    settings: tuple[str, ...]
    data: str | None

    @property
    def model(self) -> str:
        """``CONFIG`` or ``CONFIG:PRESET``."""
        return ":".join(filter(None, (self.workload.config, self.size.preset)))

    def variant(self, point: ScalingPoint, name: str = OURS, label: str | None = None) -> Variant:
        """Return the variant for a point."""
        return Variant(
            name=name,
            label=label or point.label,
            config=self.workload.config,
            preset=self.size.preset,
            settings=(*self.size.settings, *point.settings(), *self.settings),
            ranks=point.ranks,
            data=self.data,
            steps=self.size.steps,
        )


def measure(
    experiment: Experiment, points: Sequence[ScalingPoint], rounds: int
) -> list[dict[str, Any]]:
    """Measure all points in alternating rounds on this machine; return a record of each."""
    with Turns(experiment.variant(p).job() for p in points) as turns:
        found = turns.rounds("round", rounds, warm=1)
        watched = turns.rounds("watch", min(rounds, WATCHED))
        ends = turns.end()
    where = records.surroundings()
    return [
        record(experiment, point, [a["seconds"] for a in own], seen, told) | where
        for point, own, seen, told in zip(points, found, watched, ends, strict=True)
    ]


def record(
    experiment: Experiment,
    point: ScalingPoint,
    seconds: Sequence[float],
    watched: Sequence[dict[str, float]],
    told: dict[str, Any],
) -> dict[str, Any]:
    """Return a record without machine and versions."""
    return {
        "event": "scaling",
        "workload": experiment.name,
        "model": experiment.model,
        "mode": experiment.mode,
        "grid": point.grid,
        "label": point.label,
        "variant": OURS,
        "world_size": point.ranks,
        "nodes": 1,
        "samples": point.samples,
        "batch": point.batch,
        "round_steps": experiment.size.steps or told["steps_per_epoch"],
        **records.timed(seconds, told["items"], point.batch),
        "phases": records.phases(watched),
        **told,
    }


def inside(variant: Variant, rounds: int, workload: str) -> dict[str, Any] | None:
    """Measure one configuration on this job; return its record on rank 0. Collective."""
    with ExitStack() as stack:
        config, topology = prepared(variant)
        runner = Ours(config, topology, variant.steps, stack)
        seconds = [runner.round()["seconds"] for _ in range(rounds + 1)][1:]
        watched = [runner.watch() for _ in range(min(rounds, WATCHED))]
        told = runner.about()
        peak = topology.world.gather(peak_rss_mb())
    if not topology.is_root:
        return None
    grid = _grid(topology)
    batch = config.data.batch
    return {
        "event": "scaling",
        "workload": workload,
        "model": ":".join(filter(None, (variant.config, variant.preset))),
        "mode": None,  # known only when records are compared
        "grid": grid,
        "label": variant.label,
        "variant": OURS,
        "world_size": topology.size,
        "nodes": topology.size // topology.node_comm.Get_size(),
        "samples": config.method.samples,
        "batch": batch,
        "round_steps": runner.steps,
        **records.timed(seconds, told["items"], batch),
        "phases": records.phases(watched),
        **told,
        "peak_rss_mb": peak,
        **records.surroundings(topology.device.type),
    }


def _grid(topology: Topology) -> str:
    p, d = topology.sample_size, topology.data_size
    if p * d == 1:
        return "alone" if topology.size == 1 else MODEL
    return "sampling" if d == 1 else "data" if p == 1 else "hybrid"


def compared(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Compare each record with that of one rank: the paper's measure, its ideal and its range.

    If both have the same number of rounds, which then alternated, rounds are compared one by one,
    else medians.
    """
    alone = next((r for r in found if r["world_size"] == 1), None)
    rows = []
    for r in found:
        row: dict[str, Any] = {"record": r, "ideal": None, "measure": None, "spread": None}
        if alone is not None:
            work, ideal = _work(r, alone)
            ratios = [a / b * work for a, b in _pairs(alone, r)]
            value = statistics.median(ratios)
            row |= {
                "measure": value,
                "spread": (min(ratios), max(ratios)),
                "ideal": ideal,
            }
        rows.append(row)
    return rows


def _work(r: dict[str, Any], alone: dict[str, Any]) -> tuple[float, float]:
    """Return what turns a ratio of step times into the reported measure, and its ideal value."""
    if r["mode"] == "proportional":
        return 1.0, 1.0
    return r["batch"] / alone["batch"], float(r["world_size"])


def _pairs(alone: dict[str, Any], r: dict[str, Any]) -> list[tuple[float, float]]:
    if len(alone["rounds"]) == len(r["rounds"]):
        return list(zip(alone["rounds"], r["rounds"], strict=True))
    return [(alone["seconds_per_step"], r["seconds_per_step"])]
