"""Plan a grid: world = D data groups x P sample ranks x M model ranks.

The model axis is innermost, followed by the sample axis, so the ranks that exchange most are
nearest. Pure functions of the list of node names, testable without MPI and for thousands of
simulated nodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from hpcsamp.errors import UsageError
from hpcsamp.names import SampleAxis

#: The axes from the outermost to the innermost.
AxisName = Literal["data", "sample", "model"]
AXES: tuple[AxisName, ...] = get_args(AxisName)

#: Ranks that take part in an exchange: all ranks, those along an axis through this rank, or those
#: that hold the same part of the network (along data and sample; all ranks if the network is not
#: split).
Over = AxisName | Literal["world", "replicas"]
OVERS: tuple[Over, ...] = (*AXES, "world", "replicas")


class GridPosition(NamedTuple):
    """Position of a rank on each axis."""

    data: int
    sample: int
    model: int


@dataclass(frozen=True)
class Grid:
    """A planned grid.

    Attributes
    ----------
    groups
        World ranks of each sample group, whose ranks share a batch: ``D`` tuples of ``P * M``
        ranks, in sample order, with the model ranks of a sample rank next to each other.
    model_size
        ``M``, the number of ranks that each hold a part of one network.
    """

    groups: tuple[tuple[int, ...], ...]
    model_size: int = 1

    @property
    def data_size(self) -> int:
        """``D``, the number of data groups, i.e. of different batches per step."""
        return len(self.groups)

    @property
    def sample_size(self) -> int:
        """``P``, the number of sample ranks that share a batch and split its samples."""
        return len(self.groups[0]) // self.model_size

    @property
    def world_size(self) -> int:
        """Number of ranks, ``D * P * M``."""
        return self.data_size * self.sample_size * self.model_size

    @property
    def replicas_size(self) -> int:
        """Number of ranks with the same part of the network, ``D * P``."""
        return self.data_size * self.sample_size

    def size(self, over: Over) -> int:
        """Number of ranks along an axis, or of all ranks."""
        size: int = getattr(self, f"{over}_size")
        return size

    def place(self, rank: int) -> GridPosition:
        """Return the position of a world rank on each axis."""
        for d, group in enumerate(self.groups):
            if rank in group:
                return GridPosition(d, *divmod(group.index(rank), self.model_size))
        raise UsageError(f"rank {rank} is not in a grid of {self.world_size} ranks")

    def replicas(self, rank: int) -> tuple[int, ...]:
        """World ranks that hold the same part of the network as a rank, in order."""
        model = self.place(rank).model
        return tuple(r for group in self.groups for r in group[model :: self.model_size])

    def along(self, axis: AxisName, rank: int) -> tuple[int, ...]:
        """World ranks that differ from a rank only in their position on one axis, in order."""
        d, p, m = self.place(rank)
        if axis == "data":
            return tuple(group[p * self.model_size + m] for group in self.groups)
        own = self.groups[d]
        if axis == "sample":
            return own[m :: self.model_size]
        return own[p * self.model_size : (p + 1) * self.model_size]


def plan_grid(nodes: Sequence[str], samples: SampleAxis = "node", model: int = 1) -> Grid:
    """Lay ranks out on the grid.

    Parameters
    ----------
    nodes
        Node name of every world rank, in rank order.
    samples
        Extent of the sample axis. ``"node"``: the ranks of a node share a batch, nodes split the
        data (the paper's hybrid). ``"world"``: all ranks share one batch. ``"none"``: every model
        group has its own batch and all samples. An integer: sample groups of that many model
        groups, within nodes if possible.
    model
        ``M``, the number of ranks of a model group, within nodes if possible.

    Returns
    -------
    Grid

    Raises
    ------
    UsageError
        If nodes hold different numbers of ranks (``"node"``), or the sizes of the axes do not
        divide the number of ranks.
    """
    if not nodes:
        raise UsageError("a grid needs at least one rank, got 0")
    if isinstance(model, bool) or not isinstance(model, int) or model < 1:
        raise UsageError(f"a model axis must have a positive number of ranks, got {model!r}")
    by_node: dict[str, list[int]] = {}
    for rank, name in enumerate(nodes):
        by_node.setdefault(name, []).append(rank)
    if samples == "node":
        sizes = {name: len(ranks) for name, ranks in by_node.items()}
        small, large = min(sizes, key=sizes.__getitem__), max(sizes, key=sizes.__getitem__)
        if sizes[small] != sizes[large]:
            raise UsageError(
                f'parallel.samples = "node" needs the same number of ranks on every node, but '
                f"{small} has {sizes[small]} and {large} has {sizes[large]}; start the same "
                f"number of ranks on each node, or set parallel.samples to a number"
            )
        check_sizes(len(nodes), sizes[small], samples, model, f"node {small}")
        return Grid(tuple(tuple(ranks) for ranks in by_node.values()), model)
    in_node_order = [rank for ranks in by_node.values() for rank in ranks]
    if samples == "world":
        size = len(nodes)
    elif samples == "none":
        size = model
    elif isinstance(samples, int) and not isinstance(samples, bool) and samples >= 1:
        size = samples * model
    else:
        raise UsageError(
            f'parallel.samples must be "node", "world", "none" or a positive number, '
            f"got {samples!r}"
        )
    check_sizes(len(nodes), len(by_node[nodes[0]]), samples, model)
    groups = (in_node_order[i : i + size] for i in range(0, len(nodes), size))
    return Grid(tuple(map(tuple, groups)), model)


def check_sizes(
    ranks: int, per_node: int, samples: SampleAxis, model: int = 1, node: str = "a node"
) -> None:
    """Refuse axes whose sizes do not divide the number of ranks.

    Parameters
    ----------
    ranks, per_node
        Number of ranks of the job, and of each node.
    samples, model
        As for :func:`plan_grid`.
    node
        Name of a node for the message.

    Raises
    ------
    UsageError
        If the sizes do not divide the number of ranks; the message contains both sizes.
    """
    if samples == "node":
        if model > per_node:
            raise UsageError(
                f"parallel.model = {model} is more than the {per_node} ranks of {node}, but with "
                f'parallel.samples = "node" a model group must lie within a node; start more ranks '
                f"on each node, or set parallel.samples to a number of sample ranks or to "
                f'"world"'
            )
        ranks, where = per_node, f"ranks of {node}"
    else:
        where = "ranks"
    if ranks % model:
        raise UsageError(f"parallel.model = {model} does not divide the {ranks} {where}")
    if isinstance(samples, int) and ranks % (samples * model):
        of_model = f" groups of {model} model ranks" if model > 1 else ""
        raise UsageError(
            f"parallel.samples = {samples}{of_model} does not divide the number of ranks, {ranks}"
        )


def share(total: int, parts: int, index: int) -> range:
    """Return the ``index``-th of ``parts`` contiguous, nearly equal shares of ``range(total)``.

    Shares differ by at most one in length and cover the range in order: S = 16 samples over P = 3
    ranks are 5, 5 and 6.
    """
    return range(total * index // parts, total * (index + 1) // parts)


def share_samples(samples: int, ranks: int, rank: int) -> range:
    """Return the samples of one rank of a sample group.

    Raises
    ------
    UsageError
        If there are fewer samples than ranks to evaluate them.
    """
    if samples < ranks:
        raise UsageError(
            f"S = {samples} samples cannot be split over a sample group of P = {ranks} ranks; draw "
            f"at least {ranks} samples or set parallel.samples to a smaller group"
        )
    return share(samples, ranks, rank)
