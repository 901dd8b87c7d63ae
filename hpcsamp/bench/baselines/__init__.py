"""Baselines: training steps of other libraries on the same batches with the same optimiser.

A baseline is a function of configuration and grid; its training step includes the feed. Each one is
written as a careful user of its library would write it.
"""

from __future__ import annotations

from collections.abc import Callable

from hpcsamp.bench.baselines import ddp, floor, held, plain, torch_blue
from hpcsamp.bench.baselines.network import Training
from hpcsamp.config import RunConfig
from hpcsamp.grid import Topology

Baseline = Callable[[RunConfig, Topology], Training]

BASELINES: dict[str, Baseline] = {
    "plain": plain.passes,
    "plain_held": held.passes,
    "plain_captured": held.captured,
    "eager_floor": floor.eager,
    "torch_blue": torch_blue.monte_carlo,
    "torch_blue_held": held.monte_carlo,
    "torch_blue_math": torch_blue.by_products,
    "torch_blue_analytic": torch_blue.analytic,
    "torch_blue_loop": torch_blue.one_by_one,
    "ddp_sampling": ddp.sampling,
    "ddp_sampling_math": ddp.sampling_by_products,
    "ddp_data": ddp.data,
}
"""Baselines by name; the first line of each docstring is its description."""


def about(name: str) -> str:
    """Describe a baseline in one line."""
    return (BASELINES[name].__doc__ or "").split("\n")[0]
