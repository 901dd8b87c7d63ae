"""The axes of the grid as one rank sees them: its communicators and its device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hpcsamp.errors import UsageError
from hpcsamp.grid.agreement import together
from hpcsamp.grid.plan import Grid, SampleAxis, plan_grid, share_samples

if TYPE_CHECKING:
    import torch
    from mpi4py import MPI


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
