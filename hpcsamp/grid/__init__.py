"""The grid of ranks: its axes, and where tensors live on it."""

from hpcsamp.grid.agreement import one_first, together
from hpcsamp.grid.axes import RankAxis, Topology, init, one_process
from hpcsamp.grid.plan import (
    AXES,
    OVERS,
    AxisName,
    Grid,
    Over,
    check_sizes,
    plan_grid,
    share,
    share_samples,
)

__all__ = [
    "AXES",
    "OVERS",
    "AxisName",
    "Grid",
    "Over",
    "RankAxis",
    "Topology",
    "check_sizes",
    "init",
    "one_first",
    "one_process",
    "plan_grid",
    "share",
    "share_samples",
    "together",
]
