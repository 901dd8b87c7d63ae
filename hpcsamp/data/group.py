"""Who shares a ring, who leads it, and how the rings of a job talk to each other."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from hpcsamp.data.ring import wait
from hpcsamp.grid import share
from hpcsamp.serial import library, whole_job

if TYPE_CHECKING:
    from mpi4py import MPI

    from hpcsamp.grid import Topology


class Group:
    """A sample group as the loader sees it: one ring per node, communicators of its own.

    Collective over the world.

    Attributes
    ----------
    ring_comm
        Ranks of the group on this node.
    sample_comm
        All ranks of the group, for collective reads in the thread.
    leaders
        First ranks of all rings of the job; ``None`` on others, or if there is one ring alone.
    many
        Whether the job has several rings.
    apart
        Whether the job has several sample groups.
    spans
        Whether this group has several nodes.
    position, size
        This rank's place among the ranks that fetch a batch, ordered by node.
    whole
        Whether the topology's ranks are all of the job.
    """

    def __init__(self, topology: Topology):
        world, node = topology.world, topology.node_comm
        mpi = library(world)
        node_id = node.bcast(world.Get_rank())
        self.sample_comm: MPI.Comm = topology.sample_comm.Dup()
        self.ring_comm: MPI.Comm = self.sample_comm.Split(node_id, topology.sample_rank)
        self.size = self.sample_comm.Get_size()
        nodes = self.sample_comm.allgather(node_id)
        by_node = sorted(range(self.size), key=lambda p: (nodes[p], p))
        self.position = by_node.index(self.sample_comm.Get_rank())
        self._node_sizes = [nodes.count(n) for n in sorted(set(nodes))]
        self.spans = world.allreduce(len(set(nodes)) > 1, op=mpi.LOR)
        leads = self.ring_comm.Get_rank() == 0
        self.many = world.allreduce(int(leads)) > 1
        self.apart = topology.data_size > 1
        self.whole = whole_job(world)
        self.leaders: MPI.Comm | None = None
        self._peers: MPI.Comm | None = None
        if self.many:
            found = world.Split(0 if leads else mpi.UNDEFINED, world.Get_rank())
            if leads:
                self.leaders = found
                self._peers = found.Split(topology.data_rank, node_id)

    def exchange(self, out: np.ndarray, rows: int, row_bytes: int) -> None:
        """Leaders of the nodes of a group: bring the rows that other nodes have fetched.

        Parameters
        ----------
        out
            An array of the batch as bytes, with this node's rows in place.
        rows, row_bytes
            Of the whole batch.
        """
        if self._peers is None or self._peers.Get_size() == 1:
            return
        MPI = library(self._peers)  # noqa: N806
        cuts = np.concatenate([[0], np.cumsum(self._node_sizes)])
        starts = [share(rows, self.size, int(c)).start if c < self.size else rows for c in cuts]
        counts = [stop - start for start, stop in pairwise(starts)]
        row = MPI.BYTE.Create_contiguous(row_bytes).Commit()  # keeps counts below 2**31
        try:
            request = self._peers.Iallgatherv(MPI.IN_PLACE, [out, counts, starts[:-1], row])
            wait(lambda: bool(request.Test()))
        finally:
            row.Free()

    def free(self) -> None:
        """Free the communicators; collective over the world."""
        for comm in (self._peers, self.leaders, self.ring_comm, self.sample_comm):
            if comm is not None:
                comm.Free()
