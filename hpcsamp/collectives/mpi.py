"""The transport that needs only mpi4py."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from hpcsamp.collectives import gpu_aware
from hpcsamp.collectives.base import Collectives
from hpcsamp.collectives.staging import HALVES, Staging
from hpcsamp.grid import OVERS, Over, Topology
from hpcsamp.serial import library, whole_job
from hpcsamp.watchdog import Doing, here

if TYPE_CHECKING:
    from mpi4py import MPI


class MpiCollectives(Collectives):
    """Exchanges over the topology's communicators with MPI.

    GPU tensors are passed to MPI if it reports that it can use them (:mod:`.gpu_aware`) on all
    ranks. Otherwise these tensors, and types that MPI does not know (bfloat16), are copied through
    host memory, for sums in pieces (:mod:`.staging`).

    Attributes
    ----------
    gpu_aware
        Whether MPI uses GPU memory itself.
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
        own = topology.device.type != "cpu" and gpu_aware.observed()[0]
        self.gpu_aware = all(topology.world.allgather(own))  # ranks must make the same calls
        self._staging = Staging()

    def settings(self) -> dict[str, Any]:
        """Return the name, and whether GPU memory is used directly."""
        return {**super().settings(), "gpu_aware": self.gpu_aware}

    def sum_(self, x: Tensor, over: Over) -> None:
        """Sum over the ranks ``over``, in place."""
        self._reduce_(x, over, "SUM")

    def max_(self, x: Tensor, over: Over) -> None:
        """Take the elementwise maximum over the ranks ``over``, in place."""
        self._reduce_(x, over, "MAX")

    def _reduce_(self, x: Tensor, over: Over, op: str) -> None:
        comm = self._comms[over]
        MPI = library(comm)  # noqa: N806
        operation = getattr(MPI, op)
        with here.waiting(Doing.EXCHANGE):
            if self._usable(x):
                comm.Allreduce(MPI.IN_PLACE, self._buffer(x), op=operation)
            else:
                self._staging.reduce_(
                    x, lambda part: comm.Iallreduce(MPI.IN_PLACE, part, op=operation)
                )

    def begin_sum_gradient(self, x: Tensor, over: Over) -> Callable[[], None]:
        """Begin to sum over the ranks. On a GPU, or through host memory, the sum is made at once.

        Open MPI's reductions that do not block take no GPU memory, even if the others do.
        """
        if x.device.type != "cpu" or not self._usable(x):
            return super().begin_sum_gradient(x, over)
        comm = self._comms[over]
        MPI = library(comm)  # noqa: N806
        request = comm.Iallreduce(MPI.IN_PLACE, self._buffer(x), op=MPI.SUM)

        def wait() -> None:
            with here.waiting(Doing.EXCHANGE):
                request.Wait()

        return wait

    def gather(self, x: Tensor, counts: Sequence[int], over: Over) -> Tensor:
        """Concatenate the rows of the ranks ``over``."""
        mine = self._buffer(x)
        row = math.prod(x.shape[1:])
        everyone = _empty(mine, (sum(counts), *x.shape[1:]))
        sizes = [c * row for c in counts]
        with here.waiting(Doing.EXCHANGE):
            self._comms[over].Allgatherv(mine, (everyone, sizes))
        return _like(x, everyone)

    def all_to_all(self, x: Tensor, counts: Sequence[Sequence[int]], over: Over) -> Tensor:
        """Send a part of a flat tensor to each of some ranks, and concatenate those received."""
        mine, place = self._buffer(x), self.place(over)
        received = [row[place] for row in counts]
        everyone = _empty(mine, (sum(received),))
        with here.waiting(Doing.EXCHANGE):
            self._comms[over].Alltoallv((mine, list(counts[place])), (everyone, received))
        return _like(x, everyone)

    def begin_gather(self, x: Tensor, counts: Sequence[int], over: Over) -> Callable[[], Tensor]:
        """Begin to concatenate the flat tensors of the ranks ``over``."""
        mine = self._buffer(x)
        everyone = _empty(mine, (sum(counts),))
        request = self._comms[over].Iallgatherv(mine, (everyone, list(counts)))

        def found() -> Tensor:
            with here.waiting(Doing.EXCHANGE):
                request.Wait()
            return _like(x, everyone)

        return found

    def scatter_sum(self, x: Tensor, counts: Sequence[int], over: Over) -> Tensor:
        """Sum over the ranks ``over``, each of which receives its part.

        Tensors on a GPU are summed whole: Open MPI 4 has no MPI_Reduce_scatter for GPU memory (its
        coll/cuda component implements MPI_Allreduce, but not this).
        """
        if self._direct(x):
            return super().scatter_sum(x, counts, over)
        whole = self._buffer(x)
        part = _empty(whole, (counts[self.place(over)],))
        with here.waiting(Doing.EXCHANGE):
            self._comms[over].Reduce_scatter(whole, part, list(counts))
        return _like(x, part)

    def gather_(self, x: Tensor, counts: Sequence[int], over: Over) -> None:
        """Fill a tensor with the parts of the ranks ``over``, in place."""
        MPI = library(self._comms[over])  # noqa: N806
        buffer = self._buffer(x)
        with here.waiting(Doing.EXCHANGE):
            self._comms[over].Allgatherv(MPI.IN_PLACE, (buffer, list(counts)))
        _copy_back(x, buffer)

    def tell(self, thing: Any, over: Over) -> list[Any]:
        """Return a list with one object from each rank."""
        everyone: list[Any] = self._comms[over].allgather(thing)
        return everyone

    def copy_first_(self, x: Tensor, over: Over) -> None:
        """Overwrite a tensor in place with that of the first rank."""
        buffer = self._buffer(x)
        with here.waiting(Doing.EXCHANGE):
            self._comms[over].Bcast(buffer)
        _copy_back(x, buffer)

    # Arguments of MPI ------------------------------------------------------------------------

    def _direct(self, x: Tensor) -> bool:
        """Whether a GPU tensor is passed to MPI without a copy."""
        return self.gpu_aware and x.device.type == "cuda" and x.dtype not in HALVES

    def _usable(self, x: Tensor) -> bool:
        """Whether MPI can use the memory of a tensor."""
        return self._direct(x) or (x.device.type == "cpu" and x.dtype not in HALVES)

    def _buffer(self, x: Tensor) -> Any:
        """Return the memory of a contiguous tensor if MPI can use it, else a copy on the host."""
        if self._direct(x):
            if x.device.type == "cuda":  # MPI knows nothing of streams
                torch.cuda.current_stream(x.device).synchronize()
            return x.detach().contiguous()
        host = x.detach().cpu()
        return np.ascontiguousarray((host.float() if host.dtype in HALVES else host).numpy())


def _empty(like: Any, shape: Sequence[int]) -> Any:
    """Return new memory of the same kind and type as a buffer."""
    if isinstance(like, Tensor):
        return like.new_empty(shape)
    return np.empty(shape, like.dtype)


def _like(x: Tensor, found: Any) -> Tensor:
    """Return the result that MPI wrote as a tensor with the device and type of another one."""
    if isinstance(found, Tensor):
        return found
    return torch.from_numpy(found).to(device=x.device, dtype=x.dtype)


def _copy_back(x: Tensor, found: Any) -> None:
    """Copy the result that MPI wrote, unless MPI wrote to the tensor itself."""
    where = found.data_ptr() if isinstance(found, Tensor) else found.ctypes.data
    if where != x.data_ptr() or (x.device.type != "cpu" and not isinstance(found, Tensor)):
        x.copy_(_like(x, found).view(x.shape))  # NumPy gave a number an axis
