"""The grid of ranks: its axes, and where tensors live on it."""

from hpcsamp.grid.axes import (
    Grid,
    SampleAxis,
    Topology,
    init,
    plan_grid,
    share,
    share_samples,
    together,
)

__all__ = [
    "Grid",
    "SampleAxis",
    "Topology",
    "init",
    "plan_grid",
    "share",
    "share_samples",
    "together",
]
