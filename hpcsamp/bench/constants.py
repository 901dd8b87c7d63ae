"""Fit the constants of the performance model to measured times, and record its predictions."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hpcsamp.bench.subjects import Subject
from hpcsamp.collectives import SMALL, Collectives
from hpcsamp.grid import Topology
from hpcsamp.planning import calibration, fit, machine
from hpcsamp.planning.calibration import Calibration, Measured
from hpcsamp.planning.machine import Wire
from hpcsamp.planning.model import NodeLayout, predict
from hpcsamp.planning.workload import Workload

QUIET = 0.03
"""Largest fraction of a measured time that may be lost to other processes."""

VECTOR = SMALL // 4
"""Number of elements of the gradient with which the transport is compared with plain MPI: a smaller
gradient would not use the transport."""


@dataclass
class Measure:
    """A measurement.

    Attributes
    ----------
    what
        Its kind and parameters, e.g. ``("gradient", "vit", 4, 32)``.
    run
        Function to time; called on all ranks if ``together``, else on rank 0 only.
    times
        Number of consecutive calls per time, which is their mean; more than one for short calls.
    seconds, lost
        Time in each round, and the fraction of it in which a rank was ready to run but other
        processes occupied the cores.
    """

    what: tuple[Any, ...]
    run: Callable[[], Any]
    together: bool = False
    times: int = 1
    seconds: list[float] = field(default_factory=list)
    lost: list[float] = field(default_factory=list)

    @property
    def undisturbed(self) -> int:
        """Return the number of undisturbed times."""
        return sum(lost <= QUIET for lost in self.lost)

    @property
    def counted(self) -> list[float]:
        """Return the undisturbed times, or else the three least disturbed ones."""
        ordered = sorted(zip(self.lost, self.seconds, strict=True))
        return [t for _, t in ordered[: max(self.undisturbed, 3)]]

    @property
    def disturbed(self) -> float:
        """Return the largest fraction of the times used in which a rank waited for a core."""
        return sorted(self.lost)[: len(self.counted)][-1]

    @property
    def median(self) -> float:
        """Return the median of the times used, in seconds."""
        return statistics.median(self.counted)


@dataclass(frozen=True)
class FeedSizes:
    """Sizes of the feed: steps per epoch, bytes of a batch in its file and after augmentation."""

    steps: int
    batch_bytes: int
    view_bytes: int


def constants(
    subjects: Sequence[Subject],
    measures: Sequence[Measure],
    topology: Topology,
    feed: FeedSizes,
    transport: Collectives,
) -> Calibration:
    """Compute the calibration; ``feed`` holds the sizes of the feed whose times were measured."""
    found = {m.what: m for m in measures}
    draw = _per(subjects, found, "draw", lambda w: w.drawn)
    penalty = _per(subjects, found, "penalty", lambda w: w.drawn)
    update = _slope([(s.work.trained, found["update", s.name].median) for s in subjects])
    table = []
    for s in subjects:
        mine = [m for m in measures if m.what[:2] == ("alone", s.name)]
        rows = np.array([[1.0, m.what[2], m.what[2] * m.what[3]] for m in mine])
        seconds = np.array([m.median for m in mine])
        values, _ = fit.robust(rows, seconds)
        apart = s.work.drawn * penalty + s.work.trained * update
        crowds = [
            m.median / found["alone", *m.what[1:]].median
            for m in measures
            if m.what[:2] == ("crowd", s.name)
        ]
        table.append(
            Measured(
                key=s.work.key,
                name=s.name,
                base=max(0.0, values[1] - s.work.drawn * draw),
                per_item=values[2],
                overhead=max(0.0, values[0] - apart),
                crowd=max(1.0, statistics.median(crowds)) if crowds else 1.0,
                flops=s.work.counts.flops[1],
                operations=s.work.counts.operations,
                error=float(np.median(np.abs(rows @ values / seconds - 1))),
            )
        )
    reduced = [m for m in measures if m.what[0] == "allreduce"]
    link = None
    if reduced:
        sizes = [float(m.what[1]) for m in reduced]
        alpha, beta = fit.link(topology.size, sizes, [m.median for m in reduced])
        link = Wire(alpha=alpha, bandwidth=1 / max(beta, 1e-15))
    cycles = 0.0
    if ("transport", VECTOR * 4) in found:
        extra = found["transport", VECTOR * 4].median - found["plain", VECTOR * 4].median
        cycles = max(0.0, extra / _cycle(transport))
    read = found["read",].median / feed.steps / feed.batch_bytes
    copy = found["copy",].median / feed.batch_bytes
    return Calibration(
        created=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        machine=calibration.fingerprint(topology.device.type),
        ranks=topology.size,
        models=table,
        draw=draw,
        penalty=penalty,
        update=update,
        augment=found["augment",].median / (feed.view_bytes),
        read=max(0.0, read - copy) * topology.size,
        copy=copy,
        agreement=reduced[0].median if reduced else 0.0,
        link=link,
        cycles=cycles,
        disturbed=statistics.median(m.disturbed for m in measures),
        jitter=_jitter([m for m in measures if m.what[0] in ("alone", "crowd")]),
    )


def _per(
    subjects: Sequence[Subject],
    found: dict[tuple[Any, ...], Measure],
    what: str,
    numbers: Callable[[Workload], int],
) -> float:
    """Return the seconds per weight, from the model with the most weights."""
    having = [s for s in subjects if (what, s.name) in found]
    if not having:
        return 0.0
    largest = max(having, key=lambda s: numbers(s.work))
    return found[what, largest.name].median / numbers(largest.work)


def _slope(points: Sequence[tuple[int, float]]) -> float:
    """Fit seconds per parameter and a constant offset in seconds; neither is negative."""
    rows = np.array([[float(n), 1.0] for n, _ in points])
    if len({n for n, _ in points}) < 2:
        rows = rows[:, :1]
    values, _ = fit.robust(rows, np.array([t for _, t in points]))
    return float(values[0])


def _cycle(transport: Collectives) -> float:
    """Return Horovod's cycle time in seconds."""
    return float(transport.settings().get("cycle_milliseconds") or 0.0) / 1e3


def _jitter(measures: Sequence[Measure]) -> float:
    """Estimate the relative standard deviation of a time from absolute deviations (robust)."""
    off = [abs(t / m.median - 1) for m in measures for t in m.counted if len(m.counted) > 2]
    return 1.4826 * statistics.median(off) if off else 0.0


def records(
    subjects: Sequence[Subject],
    measures: Sequence[Measure],
    found: Calibration,
    transport: Collectives,
) -> list[dict[str, Any]]:
    """Return the record of each whole step with its predicted time."""
    site = machine.load("local")
    site = site.model_copy(
        update={"network": site.network.model_copy(update={"cycle": _cycle(transport)})}
    )
    place = found.machine_of(site)
    by_name = {s.name: s for s in subjects}
    told = []
    for m in measures:
        if m.what[0] != "step":
            continue
        _, name, samples, batch, ranks = m.what
        work = by_name[name].work.scaled(samples=samples, batch=batch).without_feed()
        least = transport.settings().get("smaller_by_mpi_bytes", math.inf)
        work = work.scaled(horovod_from=least)
        layout = NodeLayout(ranks, 1, ranks)
        step = predict(work, layout, place, found.rates(site, work))
        told.append(
            {
                "event": "step",
                "model": name,
                "samples": samples,
                "batch": batch,
                "world_size": ranks,
                "sample_group_size": ranks,
                "data_group_size": 1,
                "trained": work.trained,
                "collectives": transport.settings(),
                "seconds_per_step": m.median,
                "seconds": m.counted,
                "disturbed": m.disturbed,
                "predicted": step.seconds,
                "phases": {p.name: p.seconds for p in step.phases},
            }
        )
    return told
