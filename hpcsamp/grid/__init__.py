"""The grid of ranks: its axes, and where tensors live on it."""

from hpcsamp.grid.agreement import together
from hpcsamp.grid.axes import Topology, init
from hpcsamp.grid.plan import Grid, SampleAxis, plan_grid, share, share_samples

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
