"""Seconds from work: measured on a machine, or estimated from what is published of it.

Estimated (roofline; Williams, Waterman & Patterson 2009), for ``k`` samples evaluated at once:

    pass = max(k flops / (efficiency peak), k bytes / (STREAM bandwidth), launch operations) / k

Everything elementwise takes the bytes it moves over the bandwidth of the memory.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from hpcsamp.planning.machine import Machine
from hpcsamp.planning.workload import Workload

By = Literal[
    "arithmetic", "memory bandwidth", "launches", "measured compute", "network", "latency", "feed",
    "optimiser", "waiting",
]  # fmt: skip

STREAM = 0.8
"""Part of the published memory bandwidth that streams reach."""

DRAW_BYTES = 44
"""A weight's draw and its gradients: read mean, std, noise, weight's gradient; write noise, weight;
update two sums (float32)."""

PENALTY_BYTES = 40
"""KL of a weight: read mean and log std, write and add two gradients, with temporaries in cache."""

UPDATE_BYTES = 28
"""Adam: read parameter, gradient and two moments, write three of them."""

NORMAL = {"cpu": 4e-9, "gpu": 0.0}
"""Seconds to draw a normal number (on a GPU less than to write it)."""

OVERHEAD = 60
"""Operations of a step beside passes: loss, penalty, flat gradient, optimiser."""

AUGMENT_BYTES = 6
"""Bytes moved for each byte of a view: crop, flip and shift read and write it."""

HOST_LINK = 2e10
"""Bytes/s from a host's memory to its GPU (PCIe 4)."""

STAGE = 2e-5
"""Seconds to bring a small tensor from a GPU to its host and back."""


@dataclass(frozen=True)
class Pass:
    """Seconds of a forward and backward pass of one sample, and what they are spent on."""

    seconds: float
    by: By


@dataclass(frozen=True)
class Rates:
    """What a rank of a machine takes for the parts of a step.

    Attributes
    ----------
    origin
        ``"estimated"``, or which measurement; shown beside every number.
    draw, penalty, update
        Seconds per random weight and sample; per random weight and step; per trained number.
    overhead
        Seconds of a step, whatever its size.
    augment, read, copy
        Seconds per byte of a view; per byte that a rank reads; per byte of a batch that a rank
        takes out of the ring.
    stage
        Seconds of a small exchange beside the network's.
    crowd
        Factor on compute where all ranks of a node work at once (they share memory and cores).
    shares_core
        Whether the thread that reads takes its time from the rank's own core.
    passes
        Measured ``(base, per item)`` seconds of a pass; None: by roofline.
    """

    machine: Machine
    work: Workload
    origin: str = "estimated"
    draw: float = 0.0
    penalty: float = 0.0
    update: float = 0.0
    overhead: float = 0.0
    augment: float = 0.0
    read: float = 0.0
    copy: float = 0.0
    stage: float = 0.0
    crowd: float = 1.0
    shares_core: bool = False
    passes: tuple[float, float] | None = None

    def on(self, work: Workload) -> Rates:
        """The same for a model rank's part of the work; measured passes by their arithmetic."""
        if self.passes is None or self.work is work:
            return replace(self, work=work)
        part = work.counts.flops_of(1) / max(1.0, self.work.counts.flops_of(1))
        base, per_item = self.passes
        return replace(self, work=work, passes=(base * part, per_item * part))

    @property
    def elementwise(self) -> By:
        """What draws, views and penalties are limited by."""
        return "memory bandwidth" if self.passes is None else "measured compute"

    def of_pass(self, items: int, together: int = 1) -> Pass:
        """Forward and backward pass of one sample over ``items``, the draw not included."""
        if self.passes is not None:
            base, per_item = self.passes
            return Pass(base + per_item * items, "measured compute")
        device, counts = self.machine.device, self.work.counts
        peak = getattr(device, self.work.precision) * device.efficiency
        bounds: dict[By, float] = {
            "arithmetic": counts.flops_of(items) / peak,
            "memory bandwidth": counts.moved_of(items) / (STREAM * device.bandwidth),
            "launches": counts.operations * device.launch / together,
        }
        by = max(bounds, key=bounds.__getitem__)
        again = 4 / 3 if self.work.recompute else 1.0
        return Pass(bounds[by] * again, by)


def estimated(machine: Machine, work: Workload) -> Rates:
    """From published numbers."""
    device = machine.device
    stream = STREAM * device.bandwidth
    size = work.item / 4
    return Rates(
        machine,
        work,
        draw=DRAW_BYTES * size / stream + NORMAL[device.kind],
        penalty=PENALTY_BYTES * size / stream,
        update=UPDATE_BYTES * size / stream,
        overhead=OVERHEAD * device.launch,
        augment=AUGMENT_BYTES / stream,
        copy=1 / (HOST_LINK if device.kind == "gpu" else stream),
        stage=STAGE if device.kind == "gpu" else 0.0,
        shares_core=device.kind == "cpu",
        read=1 / stream if device.kind == "cpu" else 0.0,
    )
