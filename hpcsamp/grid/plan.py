"""The plan of a grid: which rank is where on which axis.

Pure functions of the list of node names, testable without MPI and for thousands of imagined nodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from hpcsamp.errors import UsageError

SampleAxis = Literal["node", "world", "none"] | int


@dataclass(frozen=True)
class Grid:
    """A planned grid.

    Attributes
    ----------
    groups
        World ranks of each sample group: ``D`` tuples of ``P`` ranks, in sample order.
    """

    groups: tuple[tuple[int, ...], ...]

    @property
    def data_size(self) -> int:
        """``D``, the number of data groups' members: how many different batches a step sees."""
        return len(self.groups)

    @property
    def sample_size(self) -> int:
        """``P``, the number of ranks that share a batch and split its samples."""
        return len(self.groups[0])

    @property
    def world_size(self) -> int:
        """Number of ranks, ``D * P``."""
        return self.data_size * self.sample_size

    def place(self, rank: int) -> tuple[int, int]:
        """``(d, p)`` of a world rank: its data index and its place in the sample group."""
        for d, members in enumerate(self.groups):
            if rank in members:
                return d, members.index(rank)
        raise UsageError(f"rank {rank} is not in a grid of {self.world_size} ranks")


def plan_grid(nodes: Sequence[str], samples: SampleAxis = "node") -> Grid:
    """Lay ranks out on the grid.

    Parameters
    ----------
    nodes
        Name of the node of every world rank, in rank order.
    samples
        What the sample axis spans. ``"node"``: the ranks of a node share a batch, nodes split the
        data (the paper's hybrid). ``"world"``: all ranks share one batch. ``"none"``: every rank
        has its own batch and all samples. An integer: groups of that many ranks, within nodes as
        far as they go.

    Returns
    -------
    Grid

    Raises
    ------
    UsageError
        If nodes hold different numbers of ranks (``"node"``), or an integer does not divide the
        number of ranks.
    """
    if not nodes:
        raise UsageError("a grid needs at least one rank, got 0")
    by_node: dict[str, list[int]] = {}
    for rank, name in enumerate(nodes):
        by_node.setdefault(name, []).append(rank)
    if samples == "node":
        sizes = {name: len(ranks) for name, ranks in by_node.items()}
        small, large = min(sizes, key=sizes.__getitem__), max(sizes, key=sizes.__getitem__)
        if sizes[small] != sizes[large]:
            raise UsageError(
                f'parallel.samples = "node" needs the same number of ranks on every node, but '
                f"{small} has {sizes[small]} and {large} has {sizes[large]}; start equally many "
                f"ranks on each node or give the size of a sample group as a number"
            )
        return Grid(tuple(tuple(ranks) for ranks in by_node.values()))
    in_node_order = [rank for ranks in by_node.values() for rank in ranks]
    if samples == "world":
        size = len(nodes)
    elif samples == "none":
        size = 1
    elif isinstance(samples, int) and not isinstance(samples, bool) and samples >= 1:
        size = samples
    else:
        raise UsageError(
            f'parallel.samples must be "node", "world", "none" or a positive number, '
            f"got {samples!r}"
        )
    if len(nodes) % size:
        raise UsageError(
            f"parallel.samples = {size} does not divide the number of ranks, {len(nodes)}"
        )
    return Grid(tuple(tuple(in_node_order[i : i + size]) for i in range(0, len(nodes), size)))


def share(total: int, parts: int, index: int) -> range:
    """The ``index``-th of ``parts`` contiguous, nearly equal shares of ``range(total)``.

    Shares differ by at most one in length and cover the range in order: S = 16 samples over P = 3
    ranks are 5, 5 and 6.
    """
    return range(total * index // parts, total * (index + 1) // parts)


def share_samples(samples: int, grid: Grid, position: int) -> range:
    """The samples of one rank of a sample group.

    Raises
    ------
    UsageError
        If there are fewer samples than ranks to evaluate them.
    """
    if samples < grid.sample_size:
        raise UsageError(
            f"S = {samples} samples cannot be split over a sample group of "
            f"P = {grid.sample_size} ranks; draw at least {grid.sample_size} samples or set "
            f"parallel.samples to a smaller group"
        )
    return share(samples, grid.sample_size, position)
