"""Refuse points that cannot run, before anything is submitted."""

from __future__ import annotations

from collections.abc import Iterable

from hpcsamp.campaign.point import Point, describe
from hpcsamp.campaign.points import Campaign
from hpcsamp.campaign.resources import Shape
from hpcsamp.errors import UsageError
from hpcsamp.grid import plan_grid, share_samples
from hpcsamp.names import SampleAxis

MOST = 100_000
"""Largest number of ranks whose grid is laid out here; the job checks larger ones."""


def check(campaign: Campaign, points: Iterable[Point]) -> None:
    """Check that the ranks of every point form a grid, and that each has a sample.

    Points with custom commands are not checked, because these need not train.

    Raises
    ------
    UsageError
        If a point cannot run; the message gives the reason that its job would report.
    """
    if campaign.spec.commands:
        return
    seen: set[tuple[Shape, int, SampleAxis, int]] = set()
    for point in points:
        key = (point.shape, point.samples, point.sample_axis, point.model_ranks)
        if key in seen or point.shape.ranks > MOST:
            continue
        seen.add(key)
        each = point.shape.ranks_per_node
        nodes = [f"node {rank // each + 1}" for rank in range(point.shape.ranks)]
        try:
            grid = plan_grid(nodes, point.sample_axis, point.model_ranks)
            share_samples(point.samples, grid.sample_size, 0)
        except UsageError as e:
            where = f"{campaign.file}: point {point.number} ({describe(point.values)})"
            raise UsageError(f"{where}: {e}") from None
