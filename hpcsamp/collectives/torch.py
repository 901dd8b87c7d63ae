"""Exchanges by torch.distributed: NCCL or RCCL among GPUs, gloo among CPUs."""

from __future__ import annotations

import atexit
import secrets
import socket
import weakref
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from hpcsamp.collectives.mpi import MpiCollectives
from hpcsamp.errors import UsageError
from hpcsamp.grid import OVERS, Over, Topology, together
from hpcsamp.watchdog import Doing, here

if TYPE_CHECKING:
    from mpi4py import MPI

#: The watchdog names a rank that is missing long before; this is for runs without it.
LONGEST_WAIT = timedelta(minutes=30)
#: For a connection to the first rank.
CONNECT = timedelta(seconds=60)
LOOPBACK = "127.0.0.1"
#: Types that lose digits in a sum of many ranks; they travel as float32, as they do with MPI.
HALVES = (torch.bfloat16, torch.float16)

_alive: weakref.WeakSet[TorchCollectives] = weakref.WeakSet()


class TorchCollectives(MpiCollectives):
    """Tensors on the device of the run go by torch.distributed, all else by MPI.

    The ranks find each other through MPI, with no address or port to be set: the first opens a
    store on a free port and tells the others. Each kind of group of the grid has a process group of
    its own, none of them torch's default one, which stays free for others.

    Parameters
    ----------
    topology
        The grid.

    Raises
    ------
    UsageError
        If this torch has no backend for the device, ranks share a GPU or have devices of different
        kinds, or a rank cannot reach the first one.
    """

    name = "torch"

    def __init__(self, topology: Topology) -> None:
        device, world = topology.device, topology.world
        self._kind = device.type
        self.backend = "gloo" if device.type == "cpu" else "nccl"
        with together(world):
            if not getattr(dist, f"is_{self.backend}_available", lambda: False)():
                raise UsageError(
                    f"torch {torch.__version__} was built without {self.backend}, which exchanges "
                    f"between devices of the kind {device.type!r}; take parallel.collectives = "
                    f'"mpi"'
                )
        _check_devices(device, world)
        super().__init__(topology)
        one_node = topology.node_comm.allreduce(topology.node_comm.size) == world.size**2
        one_node = all(world.allgather(one_node))
        self._store = _store(world, LOOPBACK if one_node else socket.getfqdn())
        self._groups: dict[Over, Any] = {}
        with together(world):
            for over in OVERS:
                if self._comms[over].size > 1:
                    self._groups[over] = self._group(over, one_node)
        _alive.add(self)

    def _group(self, over: Over, one_node: bool) -> Any:
        comm = self._comms[over]
        first = comm.bcast(self.rank)
        store = dist.PrefixStore(f"{over}/{first}", self._store)
        if self.backend == "nccl":
            of_nccl = dist.ProcessGroupNCCL.Options()
            of_nccl._timeout = LONGEST_WAIT
            return dist.ProcessGroupNCCL(store, comm.rank, comm.size, of_nccl)
        make: Any = dist.ProcessGroupGloo
        options = make._Options()
        options._timeout = LONGEST_WAIT
        # the name of a lone machine may not be resolved; between nodes GLOO_SOCKET_IFNAME is heard
        options._devices = [
            make.create_device(hostname=LOOPBACK) if one_node else make.create_default_device()
        ]
        return make(store, comm.rank, comm.size, options)

    def close(self) -> None:
        """End the threads of the groups. No exchange may follow."""
        self._groups.clear()
        self._store = None

    def settings(self) -> dict[str, Any]:
        """Name and backend."""
        return {"name": self.name, "backend": self.backend}

    def _of(self, x: Tensor, over: Over) -> Any:
        """The process group that exchanges a tensor; None if that is MPI's part."""
        return self._groups.get(over) if x.device.type == self._kind else None

    def sum_(self, x: Tensor, over: Over) -> None:
        """Sum over some ranks, in place."""
        self._all_(x, over, dist.ReduceOp.SUM, super().sum_)

    def max_(self, x: Tensor, over: Over) -> None:
        """Maximum over some ranks, in place."""
        self._all_(x, over, dist.ReduceOp.MAX, super().max_)

    def _all_(self, x: Tensor, over: Over, op: Any, otherwise: Callable[..., None]) -> None:
        group = self._of(x, over)
        if group is None:
            return otherwise(x, over)
        options = dist.AllreduceOptions()
        options.reduceOp = op
        whole = x.detach().float() if x.dtype in HALVES else x.detach()
        with here.waiting(Doing.EXCHANGE):
            group.allreduce([whole], options).wait()
        if whole.dtype != x.dtype:
            x.detach().copy_(whole)
        return None

    def gather(self, x: Tensor, counts: Sequence[int], over: Over) -> Tensor:
        """Concatenate the rows of some ranks."""
        return self.begin_gather(x, counts, over)()

    def begin_gather(self, x: Tensor, counts: Sequence[int], over: Over) -> Callable[[], Tensor]:
        """Begin to concatenate the rows of some ranks."""
        group = self._of(x, over)
        if group is None:
            found = super().gather(x, counts, over)
            return lambda: found
        rows = max(counts)  # of each rank: what is gathered must be of one size
        mine = x.detach()
        if len(mine) < rows:
            mine = torch.cat([mine, mine.new_zeros(rows - len(mine), *mine.shape[1:])])
        everyone = [mine.new_empty(mine.shape) for _ in counts]
        work = group.allgather([everyone], [mine.contiguous()])

        def ended() -> Tensor:
            with here.waiting(Doing.EXCHANGE):
                work.wait()
            return torch.cat([y[:count] for y, count in zip(everyone, counts, strict=True)])

        return ended

    def gather_(self, x: Tensor, counts: Sequence[int], over: Over) -> None:
        """Fill with the parts of some ranks, in place."""
        if self._of(x, over) is None:
            super().gather_(x, counts, over)
        else:
            x.copy_(self.gather(x.split(list(counts))[self.place(over)], counts, over))

    def scatter_sum(self, x: Tensor, counts: Sequence[int], over: Over) -> Tensor:
        """Sum over some ranks, each its part."""
        group = self._of(x, over)
        if group is None:
            return super().scatter_sum(x, counts, over)
        wide = x.detach().float() if x.dtype in HALVES else x.detach()
        size = max(counts)
        padded = wide.new_zeros(len(counts), size)
        for row, part in zip(padded, wide.split(list(counts)), strict=True):
            row[: len(part)] = part
        own = wide.new_empty(size)
        with here.waiting(Doing.EXCHANGE):  # what dist.reduce_scatter_tensor calls
            group._reduce_scatter_base(own, padded.view(-1)).wait()
        return own[: counts[self.place(over)]].to(x.dtype)

    def copy_first_(self, x: Tensor, over: Over) -> None:
        """Overwrite by the first rank's, in place."""
        group = self._of(x, over)
        if group is None:
            super().copy_first_(x, over)
        else:
            group.broadcast([x.detach()], dist.BroadcastOptions()).wait()


def _store(world: MPI.Comm, host: str) -> Any:
    """A store on the first rank that all ranks reach. Collective.

    Raises
    ------
    UsageError
        If a rank does not reach it, or something else answers there.
    """
    store, place = None, None
    with together(world):
        if world.rank == 0:
            # port 0: any that is free
            store = dist.TCPStore(host, 0, None, True, CONNECT, wait_for_workers=False)
            place = host, store.port, secrets.token_hex(16)
            store.set("word", place[2])
    host, port, word = world.bcast(place)
    with together(world):
        if store is None:
            try:
                store = dist.TCPStore(host, port, None, False, CONNECT, wait_for_workers=False)
                answer = store.get("word").decode()
            except RuntimeError as e:
                raise UsageError(
                    f"rank {world.rank} on {socket.gethostname()} does not reach rank 0 at "
                    f"{host}:{port} ({str(e).splitlines()[0]:.120}); may nodes connect to each "
                    f'other? parallel.collectives = "mpi" needs no connection of its own'
                ) from e
            if answer != word:
                raise UsageError(f"at {host}:{port} something else than rank 0 answers")
    return store


def _check_devices(device: torch.device, world: MPI.Comm) -> None:
    """Refuse ranks on devices of different kinds, or on one GPU. Collective.

    Raises
    ------
    UsageError
        Naming two of them.
    """
    own = str(torch.cuda.get_device_properties(device).uuid) if device.type == "cuda" else ""
    first: dict[str, int] = {}
    told = world.allgather((device.type, own))
    with together(world):
        for rank, (kind, gpu) in enumerate(told):
            if kind != told[0][0]:
                raise UsageError(
                    f"rank 0 has a device of the kind {told[0][0]!r} and rank {rank} of the kind "
                    f'{kind!r}; give every rank a GPU, or ask for device = "cpu"'
                )
            if gpu and gpu in first:
                raise UsageError(
                    f"ranks {first[gpu]} and {rank} share a GPU, which NCCL does not allow: start "
                    f'as many ranks as there are GPUs, or take parallel.collectives = "mpi"'
                )
            first[gpu] = rank


@atexit.register
def _close_all() -> None:
    """Before the interpreter ends: threads of a group must not outlive it."""
    for one in list(_alive):
        one.close()
