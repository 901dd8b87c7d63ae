"""Who shares a ring, who leads it, and how the rings of a job talk to each other."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from hpcsamp.data.ring import wait
from hpcsamp.serial import library, whole_job

if TYPE_CHECKING:
    from mpi4py import MPI

    from hpcsamp.grid import Topology


class Group:
    """Ranks that share batches: one ring per node, communicators of its own.

    Collective over the world.

    Parameters
    ----------
    topology
        The grid.
    comm
        The ranks that share a batch: a sample group, and of its model ranks those that need the
        same. It is freed with the group.
    color
        A number of the group, another one for each.

    Attributes
    ----------
    ring_comm
        Ranks of the group on this node.
    comm
        All ranks of the group, for collective reads in the thread.
    leaders
        First ranks of all rings of the job; ``None`` on others, or if there is one ring alone.
    many
        Whether the job has several rings.
    spans
        Whether this group has several nodes.
    position, size
        This rank's place among the ranks that fetch a batch, ordered by node.
    whole
        Whether the topology's ranks are all of the job.
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
            found = world.Split(0 if leads else mpi.UNDEFINED, world.Get_rank())
            if leads:
                self.leaders = found
                self._peers = found.Split(color, node_id)

    @property
    def firsts(self) -> list[int]:
        """Positions of the first rank of each node, and the number of ranks."""
        return np.concatenate([[0], np.cumsum(self._node_sizes)]).tolist()

    def exchange(self, out: np.ndarray, cuts: Sequence[int], row_bytes: int) -> None:
        """Leaders of the nodes of a group: bring the rows that other nodes have fetched.

        Parameters
        ----------
        out
            An array of the batch as bytes, with this node's rows in place.
        cuts
            Rows of the batch at which those of each node begin, and their number.
        row_bytes
            Of a row.
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
