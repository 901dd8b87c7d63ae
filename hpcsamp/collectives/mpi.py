"""The transport that needs nothing but mpi4py."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from hpcsamp.collectives.base import Collectives
from hpcsamp.grid import OVERS, Over, Topology
from hpcsamp.serial import library, whole_job
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
        self._comms: dict[Over, MPI.Comm] = {over: topology.comm(over).Dup() for over in OVERS}
        self.sample_size, self.sample_rank = topology.sample_size, topology.sample_rank
        self.data_size, self.data_rank = topology.data_size, topology.data_rank
        self.model_size, self.model_rank = topology.model_size, topology.model_rank
        self.rank = topology.rank
        self.whole_job = whole_job(topology.world)

    def sum_(self, x: Tensor, over: Over) -> None:
        """Sum over some ranks, in place."""
        self._reduce_(x, over, "SUM")

    def max_(self, x: Tensor, over: Over) -> None:
        """Maximum over some ranks, in place."""
        self._reduce_(x, over, "MAX")

    def _reduce_(self, x: Tensor, over: Over, op: str) -> None:
        MPI = library(self._comms[over])  # noqa: N806
        array = _host(x)
        with here.waiting(Doing.EXCHANGE):
            self._comms[over].Allreduce(MPI.IN_PLACE, array, op=getattr(MPI, op))
        _copy_back(x, array)

    def gather(self, x: Tensor, counts: Sequence[int], over: Over) -> Tensor:
        """Concatenate the rows of some ranks."""
        mine = _host(x)
        row = math.prod(x.shape[1:])
        everyone = np.empty((sum(counts), *x.shape[1:]), mine.dtype)
        sizes = [c * row for c in counts]
        with here.waiting(Doing.EXCHANGE):
            self._comms[over].Allgatherv(mine, (everyone, sizes))
        return torch.from_numpy(everyone).to(device=x.device, dtype=x.dtype)

    def begin_gather(self, x: Tensor, counts: Sequence[int], over: Over) -> Callable[[], Tensor]:
        """Begin to concatenate flat tensors of some ranks."""
        mine = _host(x)
        everyone = np.empty(sum(counts), mine.dtype)
        request = self._comms[over].Iallgatherv(mine, (everyone, list(counts)))

        def found() -> Tensor:
            with here.waiting(Doing.EXCHANGE):
                request.Wait()
            return torch.from_numpy(everyone).to(device=x.device, dtype=x.dtype)

        return found

    def scatter_sum(self, x: Tensor, counts: Sequence[int], over: Over) -> Tensor:
        """Sum over some ranks, each its part."""
        whole = _host(x)
        part = np.empty(counts[self.place(over)], whole.dtype)
        with here.waiting(Doing.EXCHANGE):
            self._comms[over].Reduce_scatter(whole, part, list(counts))
        return torch.from_numpy(part).to(device=x.device, dtype=x.dtype)

    def gather_(self, x: Tensor, counts: Sequence[int], over: Over) -> None:
        """Fill with the parts of some ranks, in place."""
        MPI = library(self._comms[over])  # noqa: N806
        array = _host(x)
        with here.waiting(Doing.EXCHANGE):
            self._comms[over].Allgatherv(MPI.IN_PLACE, (array, list(counts)))
        _copy_back(x, array)

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


def _copy_back(x: Tensor, array: Any) -> None:
    """Where MPI could not use the tensor itself."""
    if array.ctypes.data != x.data_ptr() or x.device.type != "cpu":
        x.copy_(torch.from_numpy(array))
