"""Time Monte Carlo dropout with samples folded into the batch against plain passes of that batch.

Uses the paper's network for time series (section 5.3) on all ranks of the job, which work at the
same time. Variants alternate, so that a drift in the speed of the machine affects all equally.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import hpcsamp as hs
from hpcsamp.collectives import Collectives, FlatGradient
from hpcsamp.grid import Topology, share
from hpcsamp.losses import ELBO
from hpcsamp.methods import MCDropout
from hpcsamp.models import MLP
from hpcsamp.streams import Purpose, torch_generator

INPUTS, OUTPUTS = 96, 24
ITEMS = 50_000
RATE = 0.1
RATIOS = {
    "pass": ("masked pass", "plain pass"),
    "training step": ("masked step", "plain step"),
    "step / pass": ("masked step", "plain pass"),
}
"""Variants in the numerator and denominator of each reported ratio, by its name."""


def variants(
    samples: int, batch: int, masks: str, collectives: Collectives
) -> dict[str, Callable[[], None]]:
    """Return the functions to time, by name.

    ``plain pass``: forward and backward pass of the network over this rank's share of S times the
    batch. ``plain step``: the same with the exchange of the gradient and Adam. ``masked pass`` and
    ``masked step``: the same with Monte Carlo dropout, and in the step with the exact loss over the
    group (``mean_mse``).
    """
    mine = share(samples, collectives.sample_size, collectives.sample_rank)
    generator = torch_generator("cpu", 1, Purpose.SYNTHETIC)
    x = torch.randn(batch, INPUTS, generator=generator)
    y = torch.randn(batch, OUTPUTS, generator=generator)
    many_x, many_y = x.repeat(len(mine), 1), y.repeat(len(mine), 1)

    network = _network()
    plain = torch.optim.Adam(network.parameters(), fused=True)
    gradient = FlatGradient(network.parameters())
    # passes are timed without the exchange that ends a step
    passing, method = (
        MCDropout(_network(), rate=RATE, masks=masks, seed=1)  # type: ignore[arg-type]
        for _ in range(2)
    )
    optimizer = hs.distribute(
        torch.optim.Adam(method.parameters(), fused=True), collectives, method
    )
    loss = ELBO(hs.losses.make("mean_mse", "regression"), ITEMS, collectives)

    def plain_pass() -> None:
        _mse(network(many_x), many_y).backward()

    def plain_step() -> None:
        plain_pass()
        collectives.reduce_gradient_(gradient.collect())
        plain.step()
        gradient.zero()

    def masked_pass() -> None:
        passing.step += 1
        _mse(passing(x, samples=mine), y).backward()

    def masked_step() -> None:
        loss(method, x, y, samples=samples).backward()
        optimizer.step()
        optimizer.zero_grad()

    return {
        "plain pass": plain_pass,
        "masked pass": masked_pass,
        "plain step": plain_step,
        "masked step": masked_step,
    }


def compare(
    topology: Topology,
    samples: int,
    batches: list[int],
    repeat: int,
    masks: str,
    transport: str = "auto",
) -> list[dict[str, Any]]:
    """Time all variants on all ranks. Collective over the world.

    Parameters
    ----------
    repeat
        Timed rounds, after one warm-up round. A round of a variant takes about 50 ms.
    transport
        Transport, as in ``parallel.collectives``.

    Returns
    -------
    list
        For each batch: medians of the seconds by variant, and of the ratios with their range, for
        the slowest rank.
    """
    collectives = hs.choose(topology, transport)
    found = []
    for batch in batches:
        work = variants(samples, batch, masks, collectives)
        if collectives.step_seconds is None:  # a run sets this before its first exchange
            _timed(work["plain pass"], 3, topology)
            collectives.step_seconds = _timed(work["plain pass"], 3, topology)
        seconds: dict[str, list[float]] = {name: [] for name in work}
        count = 3
        for _ in range(repeat + 1):
            for name, step in work.items():
                seconds[name].append(_timed(step, count, topology))
            count = max(3, round(0.05 / seconds["plain pass"][0]))
        rounds = {name: values[1:] for name, values in seconds.items()}
        row: dict[str, Any] = {
            "ranks": topology.size,
            "batch": batch,
            "samples": samples,
            "masks": masks,
            "collectives": collectives.settings(),
            "seconds": {name: statistics.median(values) for name, values in rounds.items()},
        }
        for label, (above, below) in RATIOS.items():
            values = [a / b for a, b in zip(rounds[above], rounds[below], strict=True)]
            row[label] = {
                "median": statistics.median(values), "min": min(values), "max": max(values)
            }  # fmt: skip
        found.append(row)
    return found


def _network() -> nn.Module:
    torch.manual_seed(1)
    return MLP((INPUTS,), OUTPUTS)


def _mse(found: Tensor, wanted: Tensor) -> Tensor:
    return (found - wanted).square().sum(-1).mean()


def _timed(step: Callable[[], None], count: int, topology: Topology) -> float:
    """Return the seconds per step of the slowest rank."""
    topology.world.Barrier()
    began = time.perf_counter()
    for _ in range(count):
        step()
    return max(topology.world.allgather((time.perf_counter() - began) / count))
