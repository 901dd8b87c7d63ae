"""Collectives of torch.distributed: NCCL or RCCL for GPUs, gloo for CPUs."""

from __future__ import annotations

import atexit
import socket
import weakref
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from hpcsamp import devices
from hpcsamp.collectives.mpi import MpiCollectives
from hpcsamp.collectives.rendezvous import LOOPBACK, missing, open_store, timed_out
from hpcsamp.collectives.staging import HALVES
from hpcsamp.errors import UsageError
from hpcsamp.grid import OVERS, Over, Topology, together
from hpcsamp.watchdog import Doing, here

#: Time limit of an exchange. A watchdog names a missing rank earlier; this is for runs without one.
LONGEST_WAIT = timedelta(minutes=30)

_alive: weakref.WeakSet[TorchCollectives] = weakref.WeakSet()


class TorchCollectives(MpiCollectives):
    """Exchange tensors on the device of the run with torch.distributed, everything else with MPI.

    No address or port has to be set (:mod:`hpcsamp.collectives.rendezvous`). Each kind of group of
    the grid has its own process group; torch's default group is left to the user.

    Parameters
    ----------
    topology
        The grid.

    Raises
    ------
    UsageError
        If this torch has no backend for the device, ranks share a GPU, or a rank cannot connect to
        rank 0.
    """

    name = "torch"

    def __init__(self, topology: Topology) -> None:
        device, world = topology.device, topology.world
        self._kind = device.type
        self.backend = "gloo" if device.type == "cpu" else "nccl"
        with together(world):
            if not getattr(dist, f"is_{self.backend}_available", lambda: False)():
                raise UsageError(
                    f"torch {torch.__version__} was built without {self.backend}, the backend for "
                    f'{device.type} tensors; set parallel.collectives = "mpi"'
                )
        shared = devices.sharing(world.allgather(devices.used(device)))
        with together(world):
            if shared:
                raise UsageError(
                    f"torch cannot exchange gradients with NCCL, because {shared}: start as many "
                    f'ranks as there are GPUs, or set parallel.collectives = "mpi"'
                )
        super().__init__(topology)
        one_node = topology.node_comm.allreduce(topology.node_comm.size) == world.size**2
        one_node = all(world.allgather(one_node))
        self._store = open_store(world, LOOPBACK if one_node else socket.getfqdn())
        self._groups: dict[Over, Any] = {}
        #: World ranks of each group.
        self._ranks = {over: self._comms[over].allgather(self.rank) for over in OVERS}
        with together(world):
            for over in OVERS:
                if self._comms[over].size > 1:
                    self._groups[over] = self._group(over, one_node)
        _alive.add(self)

    def _group(self, over: Over, one_node: bool) -> Any:
        comm = self._comms[over]
        store = dist.PrefixStore(self._label(over), self._store)
        if self.backend == "nccl":
            of_nccl = dist.ProcessGroupNCCL.Options()
            of_nccl._timeout = LONGEST_WAIT
            return dist.ProcessGroupNCCL(store, comm.rank, comm.size, of_nccl)
        make: Any = dist.ProcessGroupGloo
        options = make._Options()
        options._timeout = LONGEST_WAIT
        # A single machine may not resolve its own name. Between nodes, GLOO_SOCKET_IFNAME applies.
        options._devices = [
            make.create_device(hostname=LOOPBACK) if one_node else make.create_default_device()
        ]
        return make(store, comm.rank, comm.size, options)

    def _label(self, over: Over) -> str:
        """Return the name of a group in the store."""
        return f"{over}/{self._ranks[over][0]}"

    def _wait(self, work: Any, over: Over) -> None:
        """Wait for the end of an exchange.

        Raises
        ------
        HpcsampError
            If it fails or takes too long; the message names the ranks that did not
            join the exchange.
        """
        try:
            with here.waiting(Doing.EXCHANGE):
                work.wait()
        except RuntimeError as e:
            ranks = self._ranks[over]
            without = missing(self._store, self._label(over), self.rank, ranks)
            raise timed_out(e, without, len(ranks), LONGEST_WAIT.total_seconds()) from e

    def close(self) -> None:
        """Destroy the groups and end their threads. No exchange may follow."""
        self._groups.clear()
        self._store = None

    def settings(self) -> dict[str, Any]:
        """Return the name and the backend."""
        return {"name": self.name, "backend": self.backend}

    def _of(self, x: Tensor, over: Over) -> Any:
        """Return the process group that exchanges a tensor; None if MPI exchanges it."""
        return self._groups.get(over) if x.device.type == self._kind else None

    def sum_(self, x: Tensor, over: Over) -> None:
        """Sum over the ranks ``over``, in place."""
        self._all_(x, over, dist.ReduceOp.SUM, super().sum_)

    def max_(self, x: Tensor, over: Over) -> None:
        """Take the elementwise maximum over the ranks ``over``, in place."""
        self._all_(x, over, dist.ReduceOp.MAX, super().max_)

    def _all_(self, x: Tensor, over: Over, op: Any, otherwise: Callable[..., None]) -> None:
        group = self._of(x, over)
        if group is None:
            return otherwise(x, over)
        whole = x.detach().float() if x.dtype in HALVES else x.detach()
        self._wait(_begin(group, whole, op), over)
        if whole.dtype != x.dtype:
            x.detach().copy_(whole)
        return None

    def begin_sum_gradient(self, x: Tensor, over: Over) -> Callable[[], None]:
        """Begin to sum over the ranks ``over``; on a GPU, on NCCL's own stream."""
        group = self._of(x, over)
        if group is None or x.dtype in HALVES:
            return super().begin_sum_gradient(x, over)
        work = _begin(group, x.detach(), dist.ReduceOp.SUM)
        return lambda: self._wait(work, over)

    def gather(self, x: Tensor, counts: Sequence[int], over: Over) -> Tensor:
        """Concatenate the rows of the ranks ``over``."""
        return self.begin_gather(x, counts, over)()

    def begin_gather(self, x: Tensor, counts: Sequence[int], over: Over) -> Callable[[], Tensor]:
        """Begin to concatenate the rows of the ranks ``over``."""
        group = self._of(x, over)
        if group is None:
            found = super().gather(x, counts, over)
            return lambda: found
        rows = max(counts)  # allgather needs tensors of one size
        mine = x.detach()
        if len(mine) < rows:
            mine = torch.cat([mine, mine.new_zeros(rows - len(mine), *mine.shape[1:])])
        everyone = [mine.new_empty(mine.shape) for _ in counts]
        work = group.allgather([everyone], [mine.contiguous()])

        def ended() -> Tensor:
            self._wait(work, over)
            return torch.cat([y[:count] for y, count in zip(everyone, counts, strict=True)])

        return ended

    def all_to_all(self, x: Tensor, counts: Sequence[Sequence[int]], over: Over) -> Tensor:
        """Send a part of a flat tensor to each of some ranks, and concatenate those received."""
        group = self._of(x, over)
        if group is None:
            return super().all_to_all(x, counts, over)
        place = self.place(over)
        received = [row[place] for row in counts]
        everyone = x.new_empty(sum(received))
        self._wait(
            group.alltoall_base(everyone, x.detach().contiguous(), received, list(counts[place])),
            over,
        )
        return everyone

    def gather_(self, x: Tensor, counts: Sequence[int], over: Over) -> None:
        """Fill a flat tensor with the parts of the ranks ``over``, in place."""
        if self._of(x, over) is None:
            super().gather_(x, counts, over)
        else:
            x.copy_(self.gather(x.split(list(counts))[self.place(over)], counts, over))

    def scatter_sum(self, x: Tensor, counts: Sequence[int], over: Over) -> Tensor:
        """Sum a flat tensor over the ranks ``over``, each of which receives its part."""
        group = self._of(x, over)
        if group is None:
            return super().scatter_sum(x, counts, over)
        wide = x.detach().float() if x.dtype in HALVES else x.detach()
        size = max(counts)
        padded = wide.new_zeros(len(counts), size)
        for row, part in zip(padded, wide.split(list(counts)), strict=True):
            row[: len(part)] = part
        own = wide.new_empty(size)
        # dist.reduce_scatter_tensor, which needs the default group, calls the same function
        self._wait(group._reduce_scatter_base(own, padded.view(-1)), over)
        return own[: counts[self.place(over)]].to(x.dtype)

    def copy_first_(self, x: Tensor, over: Over) -> None:
        """Overwrite a tensor with that of the first of the ranks ``over``, in place."""
        group = self._of(x, over)
        if group is None:
            super().copy_first_(x, over)
        else:
            self._wait(group.broadcast([x.detach()], dist.BroadcastOptions()), over)


def _begin(group: Any, x: Tensor, op: Any) -> Any:
    """Begin to reduce a tensor in place."""
    options = dist.AllreduceOptions()
    options.reduceOp = op
    return group.allreduce([x], options)


@atexit.register
def _close_all() -> None:
    """Destroy all groups before the interpreter ends, because their threads must not outlive it."""
    for one in list(_alive):
        one.close()
