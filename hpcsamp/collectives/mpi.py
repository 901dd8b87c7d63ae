"""The transport that needs nothing but mpi4py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from hpcsamp.collectives.base import Collectives, Over
from hpcsamp.grid import Topology
from hpcsamp.runtime import mpi
from hpcsamp.watchdog import Doing, here

if TYPE_CHECKING:
    from mpi4py import MPI


class MpiCollectives(Collectives):
    """Exchanges over the topology's communicators with MPI.

    GPU tensors and types that MPI does not know (bfloat16) are staged through host memory.
    """

    name = "mpi"

    def __init__(self, topology: Topology) -> None:
        # Own communicators: losses, optimiser and feed never meet on one.
        self._sample_comm = topology.sample_comm.Dup()
        self._data_comm = topology.data_comm.Dup()
        self._world = topology.world.Dup()
        self.sample_size = topology.sample_size
        self.sample_rank = topology.sample_rank
        self.data_size = topology.data_size
        self.rank = topology.rank
        self.whole_job = topology.size == mpi().COMM_WORLD.size
        self._comms = {
            "world": self._world, "sample": self._sample_comm, "data": self._data_comm,
        }  # fmt: skip

    def group_sum_(self, x: Tensor) -> None:
        """Sum over the sample group, in place."""
        _allreduce_(self._sample_comm, x, "SUM")

    def group_max_(self, x: Tensor) -> None:
        """Maximum over the sample group, in place."""
        _allreduce_(self._sample_comm, x, "MAX")

    def group_gather(self, x: Tensor, counts: Sequence[int]) -> Tensor:
        """Concatenate the group's rows."""
        mine = _host(x)
        row = int(np.prod(x.shape[1:], dtype=np.int64))
        everyone = np.empty((sum(counts), *x.shape[1:]), mine.dtype)
        sizes = [c * row for c in counts]
        with here.waiting(Doing.EXCHANGE):
            self._sample_comm.Allgatherv(mine, (everyone, sizes))
        return torch.from_numpy(everyone).to(device=x.device, dtype=x.dtype)

    def group_scatter_sum(self, x: Tensor, counts: Sequence[int]) -> Tensor:
        """Sum over the group, each rank its part."""
        whole = _host(x)
        part = np.empty(counts[self.sample_rank], whole.dtype)
        with here.waiting(Doing.EXCHANGE):
            self._sample_comm.Reduce_scatter(whole, part, list(counts))
        return torch.from_numpy(part).to(device=x.device, dtype=x.dtype)

    def group_allgather_(self, x: Tensor, counts: Sequence[int]) -> None:
        """Fill with the parts of the group, in place."""
        from mpi4py import MPI

        array = _host(x)
        with here.waiting(Doing.EXCHANGE):
            self._sample_comm.Allgatherv(MPI.IN_PLACE, (array, list(counts)))
        _copy_back(x, array)

    def data_sum_(self, x: Tensor) -> None:
        """Sum over the data group, in place."""
        _allreduce_(self._data_comm, x, "SUM")

    def world_sum_(self, x: Tensor) -> None:
        """Sum over all ranks, in place."""
        _allreduce_(self._world, x, "SUM")

    def total(self, numbers: np.ndarray, over: Over) -> np.ndarray:
        """Sum of a few numbers."""
        summed = np.empty_like(numbers)
        self._comms[over].Allreduce(numbers, summed)
        return summed

    def tell(self, thing: Any, over: Over) -> list[Any]:
        """One object of each rank."""
        everyone: list[Any] = self._comms[over].allgather(thing)
        return everyone

    def copy_first_(self, x: Tensor, over: Over) -> None:
        """Overwrite by the first rank's, in place."""
        array = np.ascontiguousarray(_host(x))
        self._comms[over].Bcast(array)
        _copy_back(x, array)


def _host(x: Tensor) -> Any:
    """A NumPy array of the tensor: itself if MPI can use it, else a copy (bfloat16: float32)."""
    host = x.detach().cpu()
    return (host.float() if host.dtype in (torch.bfloat16, torch.float16) else host).numpy()


def _allreduce_(comm: MPI.Comm, x: Tensor, op: str) -> None:
    from mpi4py import MPI

    array = _host(x)
    with here.waiting(Doing.EXCHANGE):
        comm.Allreduce(MPI.IN_PLACE, array, op=getattr(MPI, op))
    _copy_back(x, array)


def _copy_back(x: Tensor, array: Any) -> None:
    """Where MPI could not use the tensor itself."""
    if array.ctypes.data != x.data_ptr() or x.device.type != "cpu":
        x.copy_(torch.from_numpy(array))
