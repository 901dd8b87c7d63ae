"""The grid from the view of one rank: communicators of its axes, and its device."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hpcsamp import devices, serial
from hpcsamp.errors import UsageError
from hpcsamp.grid.agreement import together
from hpcsamp.grid.plan import AXES, AxisName, Grid, Over, plan_grid, share_samples
from hpcsamp.names import SampleAxis

if TYPE_CHECKING:
    import torch
    from mpi4py import MPI


@dataclass(frozen=True)
class RankAxis:
    """The ranks along an axis of the grid through this rank.

    Attributes
    ----------
    comm
        Communicator of these ranks, in the order of the axis.
    """

    name: AxisName
    comm: MPI.Comm

    @property
    def size(self) -> int:
        """Number of ranks along the axis."""
        return self.comm.Get_size()

    @property
    def rank(self) -> int:
        """Position of this rank on the axis."""
        return self.comm.Get_rank()


@dataclass(frozen=True)
class Topology:
    """The grid, its communicators and the device of this rank.

    Attributes
    ----------
    grid
        Planned grid.
    world, node_comm
        All ranks, and those of this node. These and the communicators of the axes belong to this
        package (duplicated; never shared between threads).
    axes
        The axes: data, sample and model.
    replicas
        Ranks that hold the same part of the network; the world if the network is not split.
    device
        Device on which this rank computes.
    """

    grid: Grid
    world: MPI.Comm
    node_comm: MPI.Comm
    axes: tuple[RankAxis, RankAxis, RankAxis]
    replicas: MPI.Comm
    device: torch.device

    def axis(self, name: AxisName) -> RankAxis:
        """Return one of the axes."""
        return self.axes[AXES.index(name)]

    def comm(self, over: Over) -> MPI.Comm:
        """Return the communicator of the ranks ``over`` which an exchange runs."""
        if over == "world":
            return self.world
        return self.replicas if over == "replicas" else self.axis(over).comm

    @property
    def rank(self) -> int:
        """World rank."""
        return self.world.Get_rank()

    @property
    def size(self) -> int:
        """World size."""
        return self.world.Get_size()

    @property
    def sample_comm(self) -> MPI.Comm:
        """Ranks with the same batch and different samples."""
        return self.axis("sample").comm

    @property
    def sample_size(self) -> int:
        """Number of sample ranks, ``P``."""
        return self.grid.sample_size

    @property
    def sample_rank(self) -> int:
        """Position in the sample group, 0..P-1."""
        return self.axis("sample").rank

    @property
    def data_comm(self) -> MPI.Comm:
        """Ranks with the same samples and different data."""
        return self.axis("data").comm

    @property
    def data_size(self) -> int:
        """Number of data groups, ``D``."""
        return self.grid.data_size

    @property
    def data_rank(self) -> int:
        """Index of this rank's batch, 0..D-1."""
        return self.axis("data").rank

    @property
    def model_comm(self) -> MPI.Comm:
        """Ranks with different parts of the same network."""
        return self.axis("model").comm

    @property
    def model_size(self) -> int:
        """Number of model ranks, ``M``."""
        return self.grid.model_size

    @property
    def model_rank(self) -> int:
        """Index of the part of the network that this rank holds, 0..M-1."""
        return self.axis("model").rank

    @property
    def is_root(self) -> bool:
        """Whether this is rank 0, which prints and writes."""
        return self.rank == 0

    def samples(self, total: int) -> range:
        """Return the samples of this rank, its share of ``total``."""
        return share_samples(total, self.sample_size, self.sample_rank)

    def describe(self) -> str:
        """Describe the grid in one line, e.g. ``4 ranks = 2 batches x 2 sample ranks, cpu``."""
        d, p, m = (self.grid.size(axis) for axis in AXES)
        return (
            f"{self.size} rank{'s' * (self.size > 1)} = {d} batch{'es' * (d > 1)} x "
            f"{p} sample rank{'s' * (p > 1)}{f' x {m} model ranks' * (m > 1)}, {self.device.type}"
        )


def init(
    samples: SampleAxis = "node",
    *,
    model: int = 1,
    fall_back: bool = False,
    comm: MPI.Comm | None = None,
    device: str = "auto",
) -> Topology:
    """Join the job: set up communicators, device and threads, and an excepthook that ends the job.

    Collective over ``comm``. Horovod is not started here, but at the first gradient exchange, when
    the duration of a step is known (see :mod:`hpcsamp.collectives`).

    Parameters
    ----------
    samples, model
        Extent of the sample axis, and size of the model axis, see :func:`plan_grid`.
    fall_back
        Whether to use a model axis of one rank if the ranks do not allow ``model``.
    comm
        The ranks to use (default ``MPI.COMM_WORLD``; this process alone if mpi4py is not
        installed).
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
    MPI = serial if isinstance(comm, serial.Comm) else mpi()  # noqa: N806
    world = (comm or MPI.COMM_WORLD).Dup()
    node_comm = world.Split_type(MPI.COMM_TYPE_SHARED, key=world.Get_rank())
    # Each shared-memory domain is a node: a host may have several of them.
    node = node_comm.bcast(f"{MPI.Get_processor_name()}/{world.Get_rank()}")
    nodes = world.allgather(node)
    with together(world):
        if MPI.Query_thread() < MPI.THREAD_MULTIPLE:
            raise UsageError(
                f"this MPI supports thread level {MPI.Query_thread()}, but MPI_THREAD_MULTIPLE "
                f"({MPI.THREAD_MULTIPLE}) is needed because batches are prefetched in a thread; "
                f"use an MPI built with thread support"
            )
        grid = _planned(nodes, samples, model, fall_back)
        chosen = bind_device(device, node_comm.Get_rank())
    used = world.allgather(devices.used(chosen))
    with together(world):
        devices.alike(used)
    limit_threads(node_comm)
    reuse_freed_memory()
    data, sample, model_axis = (
        RankAxis(name, _split(world, grid.along(name, world.Get_rank()))) for name in AXES
    )
    same = world if grid.model_size == 1 else _split(world, grid.replicas(world.Get_rank()))
    return Topology(grid, world, node_comm, (data, sample, model_axis), same, chosen)


def one_process(device: str = "auto") -> Topology:
    """Return the grid of this process alone, without MPI and without side effects on the process.

    Raises
    ------
    UsageError
        If a requested GPU is not visible to this process.
    """
    from hpcsamp.runtime import bind_device

    chosen = bind_device(device, 0)
    comm = serial.COMM_SELF
    data, sample, model = (RankAxis(name, comm) for name in AXES)
    grid = plan_grid([serial.Get_processor_name()], "node", 1)
    return Topology(grid, comm, comm, (data, sample, model), comm, chosen)


def _planned(nodes: Sequence[str], samples: SampleAxis, model: int, fall_back: bool) -> Grid:
    try:
        return plan_grid(nodes, samples, model)
    except UsageError:
        if not fall_back or model == 1:
            raise
        with suppress(UsageError):
            return plan_grid(nodes, samples, 1)
        raise


def _split(world: MPI.Comm, ranks: tuple[int, ...]) -> MPI.Comm:
    """Create a communicator of this and other ranks, in their order. Collective over the world."""
    return world.Split(ranks[0], ranks.index(world.Get_rank()))
