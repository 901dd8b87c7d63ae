"""Communicators of the ranks that share batches, and the exchange of batches between nodes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from hpcsamp.grid.polling import wait
from hpcsamp.serial import library, whole_job

if TYPE_CHECKING:
    from mpi4py import MPI

    from hpcsamp.grid import Topology


class ReadingGroup:
    """Ranks that share batches, with one ring buffer per node and their own communicators.

    Collective over the world.

    Parameters
    ----------
    topology
        The grid.
    comm
        The ranks that share a batch: those of a sample group whose model ranks need the same parts.
        It is freed with the group.
    color
        A number that differs between groups.

    Attributes
    ----------
    ring_comm
        Ranks of the group on this node.
    comm
        All ranks of the group, for collective reads in the prefetch thread.
    leaders
        First ranks of all rings of the job; ``None`` on other ranks, or if there is only one ring.
    many
        Whether the job has several rings.
    spans
        Whether any group of the job spans several nodes.
    position, size
        This rank's position among the ranks that read a batch (ordered by node), and their number.
    whole
        Whether the topology contains all ranks of the job.
    """

    def __init__(self, topology: Topology, comm: MPI.Comm, color: int):
        world, node = topology.world, topology.node_comm
        mpi = library(world)
        node_id = node.bcast(world.Get_rank())
        self.comm = comm
        self.ring_comm: MPI.Comm = comm.Split(node_id, comm.Get_rank())
        self.size = comm.Get_size()
        nodes = comm.allgather(node_id)
        by_node = sorted(range(self.size), key=lambda p: (nodes[p], p))
        self.position = by_node.index(comm.Get_rank())
        self._node_sizes = [nodes.count(n) for n in sorted(set(nodes))]
        self.spans = world.allreduce(len(set(nodes)) > 1, op=mpi.LOR)
        leads = self.ring_comm.Get_rank() == 0
        self.many = world.allreduce(int(leads)) > 1
        self.whole = whole_job(world)
        self.leaders: MPI.Comm | None = None
        self._peers: MPI.Comm | None = None
        if self.many:
            leaders = world.Split(0 if leads else mpi.UNDEFINED, world.Get_rank())
            if leads:
                self.leaders = leaders
                self._peers = leaders.Split(color, node_id)

    @property
    def firsts(self) -> list[int]:
        """Positions of the first rank of each node, followed by the number of ranks."""
        return np.concatenate([[0], np.cumsum(self._node_sizes)]).tolist()

    def exchange(self, out: np.ndarray, cuts: Sequence[int], row_bytes: int) -> None:
        """Exchange the rows that the nodes of a group have read. Called by the leaders of nodes.

        Parameters
        ----------
        out
            An array of the batch as bytes, with this node's rows in place.
        cuts
            First row of each node in the batch, followed by the number of rows.
        row_bytes
            Size of a row in bytes.
        """
        if self._peers is None or self._peers.Get_size() == 1:
            return
        MPI = library(self._peers)  # noqa: N806
        counts = [stop - start for start, stop in pairwise(cuts)]
        row = MPI.BYTE.Create_contiguous(row_bytes).Commit()  # keeps counts below 2**31
        try:
            request = self._peers.Iallgatherv(MPI.IN_PLACE, [out, counts, cuts[:-1], row])
            wait(lambda: bool(request.Test()))
        finally:
            row.Free()

    def free(self) -> None:
        """Free the communicators; collective over the world."""
        for comm in (self._peers, self.leaders, self.ring_comm, self.comm):
            if comm is not None:
                comm.Free()
