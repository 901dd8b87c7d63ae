"""The grid of ranks: world = D data groups x P sample ranks.

First the planning, pure functions of the list of node names (testable without MPI, for thousands of
imagined nodes); then the communicators made from it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from hpcsamp.errors import HpcsampError, UsageError
from hpcsamp.watchdog import Doing, here

if TYPE_CHECKING:
    import torch
    from mpi4py import MPI

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


@dataclass(frozen=True)
class Topology:
    """The grid with its communicators, as one rank sees it.

    Attributes
    ----------
    grid
        The plan.
    world, sample_comm, data_comm, node_comm
        Communicators of this subsystem's own (duplicated; never shared between threads).
        ``sample_comm``: same batch, other samples. ``data_comm``: same samples, other data.
    device
        Where this rank computes.
    """

    grid: Grid
    world: MPI.Comm
    sample_comm: MPI.Comm
    data_comm: MPI.Comm
    node_comm: MPI.Comm
    device: torch.device

    @property
    def rank(self) -> int:
        """World rank."""
        return self.world.Get_rank()

    @property
    def size(self) -> int:
        """World size."""
        return self.world.Get_size()

    @property
    def sample_size(self) -> int:
        """``P``."""
        return self.grid.sample_size

    @property
    def sample_rank(self) -> int:
        """Place in the sample group, 0..P-1."""
        return self.sample_comm.Get_rank()

    @property
    def data_size(self) -> int:
        """``D``."""
        return self.grid.data_size

    @property
    def data_rank(self) -> int:
        """Which of the D batches this rank works on, 0..D-1."""
        return self.data_comm.Get_rank()

    @property
    def is_root(self) -> bool:
        """Whether this rank prints and writes."""
        return self.rank == 0

    def samples(self, total: int) -> range:
        """This rank's share of ``total`` samples."""
        return share_samples(total, self.grid, self.sample_rank)

    def describe(self) -> str:
        """One line for people, e.g. ``4 ranks = 2 data groups x 2 sample ranks``."""
        return (
            f"{self.size} rank{'s' * (self.size > 1)} = {self.data_size} batch"
            f"{'es' * (self.data_size > 1)} x {self.sample_size} sample rank"
            f"{'s' * (self.sample_size > 1)}, {self.device.type}"
        )


def init(
    samples: SampleAxis = "node",
    *,
    comm: MPI.Comm | None = None,
    device: str = "auto",
) -> Topology:
    """Join the job: communicators, device and thread binding, and an excepthook that ends the job.

    Collective over ``comm``. Horovod is not started here but with the first gradient exchange, when
    the time of a step is known (see :mod:`hpcsamp.collectives`).

    Parameters
    ----------
    samples
        What the sample axis spans, see :func:`plan_grid`.
    comm
        The ranks to use (default ``MPI.COMM_WORLD``).
    device
        ``"auto"`` (a GPU if this process sees one), ``"cpu"``, ``"cuda"`` or ``"cuda:1"``.

    Raises
    ------
    UsageError
        If the layout does not fit, or MPI cannot be called from a prefetch thread.
    """
    from hpcsamp.runtime import (
        bind_device,
        install_excepthook,
        limit_threads,
        mpi,
        reuse_freed_memory,
    )

    install_excepthook()
    MPI = mpi()  # noqa: N806
    world = (comm or MPI.COMM_WORLD).Dup()
    node_comm = world.Split_type(MPI.COMM_TYPE_SHARED, key=world.Get_rank())
    # A name per shared-memory domain: two such domains on one host are two nodes.
    node = node_comm.bcast(f"{MPI.Get_processor_name()}/{world.Get_rank()}")
    nodes = world.allgather(node)
    with together(world):
        if MPI.Query_thread() < MPI.THREAD_MULTIPLE:
            raise UsageError(
                f"this MPI offers thread level {MPI.Query_thread()}, MPI_THREAD_MULTIPLE "
                f"({MPI.THREAD_MULTIPLE}) is needed because batches are prefetched in a thread; "
                f"use an MPI built with thread support"
            )
        grid = plan_grid(nodes, samples)
        chosen = bind_device(device, node_comm.Get_rank())
    d, p = grid.place(world.Get_rank())
    limit_threads(node_comm)
    reuse_freed_memory()
    return Topology(
        grid=grid,
        world=world,
        sample_comm=world.Split(d, p),
        data_comm=world.Split(p, d),
        node_comm=node_comm,
        device=chosen,
    )


@contextmanager
def together(comm: MPI.Comm) -> Iterator[None]:
    """Fail together: if the block raises on any rank, every rank raises the same one line.

    Collective over ``comm``; the block itself must not communicate in a way that a rank which has
    failed would leave the others waiting for.

    Raises
    ------
    HpcsampError
        On every rank, with the type and message of the lowest rank that failed.
    """
    from mpi4py import MPI

    error: BaseException | None = None
    try:
        yield
    except Exception as e:
        error = e
    size = comm.Get_size()
    with here.waiting(Doing.AGREEMENT):
        first = comm.allreduce(size if error is None else comm.Get_rank(), op=MPI.MIN)
    if first == size:
        return
    if isinstance(error, HpcsampError):
        told: tuple[type[HpcsampError], str] | None = (type(error), str(error))
    elif error is not None:
        told = (HpcsampError, f"{type(error).__name__}: {error}")
    else:
        told = None
    kind, message = comm.bcast(told, root=first)
    agreed = kind(message)
    agreed.agreed = comm.Get_size() == MPI.COMM_WORLD.Get_size()
    raise agreed from error
