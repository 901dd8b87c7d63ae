"""Convert work to seconds by rates measured on a machine, or estimated from its published data.

Estimated (roofline; Williams, Waterman & Patterson 2009), for ``k`` samples evaluated at once:

    pass = max(k flops / (efficiency peak), k bytes / (STREAM bandwidth), launch operations) / k

Elementwise operations take the bytes they move divided by the memory bandwidth.
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
"""Fraction of the published memory bandwidth that the STREAM benchmark reaches."""

DRAW_BYTES = 44
"""Bytes moved per weight for its draw and gradients: read mean, std, noise and the weight's
gradient; write noise and weight; update two sums (float32)."""

PENALTY_BYTES = 40
"""Bytes moved per weight for the KL (float32): read mean and log std, write and add two gradients;
temporaries are in the cache."""

UPDATE_BYTES = 28
"""Bytes moved per value for Adam (float32): read parameter, gradient and two moments; write
parameter and moments."""

NORMAL = {"cpu": 4e-9, "gpu": 0.0}
"""Seconds to draw a normal random number (0 on a GPU, where this is faster than writing it)."""

OVERHEAD = 60
"""Number of operations of a step outside passes: loss, penalty, flat gradient, optimiser."""

AUGMENT_BYTES = 6
"""Bytes moved per byte of a view: crop, flip and shift each read and write it."""

HOST_LINK = 2e10
"""Bytes/s from a host's memory to its GPU (PCIe 4)."""

STAGE = 2e-5
"""Seconds to copy a small tensor from a GPU to its host and back."""


@dataclass(frozen=True)
class Pass:
    """Duration of a forward and backward pass of one sample in seconds, and its limiting factor."""

    seconds: float
    by: By


@dataclass(frozen=True)
class Rates:
    """Time that a rank needs for each part of a step, per unit of work.

    Attributes
    ----------
    origin
        ``"estimated"``, or the name of the measurement; shown with every result.
    draw, penalty, update
        Seconds per random weight and sample; per random weight and step; per trainable
        parameter.
    overhead
        Constant seconds per step.
    augment, read, copy
        Seconds per byte of a view; per byte that a rank reads; per byte of a batch that a rank
        takes from the ring.
    stage
        Seconds that a small exchange takes in addition to its time on the network.
    crowd
        Slowdown of computation if all ranks of a node compute at the same time (they share memory
        and cores).
    shares_core
        Whether the reader thread runs on the rank's own core.
    passes
        Measured ``(base, per item)`` seconds of a pass; None to use the roofline model.
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
        """Rates for a model rank's part of the work; measured passes are scaled by operations."""
        if self.passes is None or self.work is work:
            return replace(self, work=work)
        part = work.counts.flops_of(1) / max(1.0, self.work.counts.flops_of(1))
        base, per_item = self.passes
        return replace(self, work=work, passes=(base * part, per_item * part))

    @property
    def elementwise(self) -> By:
        """Limiting factor of draws, views and penalties."""
        return "memory bandwidth" if self.passes is None else "measured compute"

    def of_pass(self, items: int, together: int = 1) -> Pass:
        """Time of a forward and backward pass of one sample over ``items``, without the draw."""
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
    """Estimate rates from the published data of a machine."""
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
