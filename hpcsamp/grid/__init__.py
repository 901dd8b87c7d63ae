"""The grid of ranks: its axes, and where tensors live on it."""

from hpcsamp.grid.agreement import together
from hpcsamp.grid.axes import Axis, Topology, init
from hpcsamp.grid.plan import (
    AXES,
    AxisName,
    Grid,
    Over,
    plan_grid,
    share,
    share_samples,
)

__all__ = [
    "AXES",
    "Axis",
    "AxisName",
    "Grid",
    "Over",
    "Topology",
    "init",
    "plan_grid",
    "share",
    "share_samples",
    "together",
]
