"""Gradient exchange with Horovod, the default transport."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any

from torch import Tensor

from hpcsamp import devices
from hpcsamp.collectives.mpi import MpiCollectives
from hpcsamp.errors import UsageError
from hpcsamp.grid import Over, Topology, together
from hpcsamp.watchdog import Doing, here

#: Gradients of fewer bytes are exchanged faster by MPI than in a cycle of Horovod.
SMALL = 1 << 20
#: Seconds of compute that one cycle of Horovod's thread takes from the core of its rank.
CYCLE_COST = 5e-5
#: Bounds of the cycle time in seconds.
SHORTEST_CYCLE, LONGEST_CYCLE = 1e-4, 2.5e-2

#: Process sets that Horovod was started with in this process, by their ranks.
_process_sets: dict[tuple[int, ...], Any] = {}


def cycle_time(step_seconds: float) -> float:
    """Return Horovod's cycle time: seconds between two exchanges of its thread.

    Every cycle takes a little compute, because on CPUs the thread and the model share a core and
    the cycle is a blocking MPI exchange: ``CYCLE_COST * step / cycle`` per step. The gradient waits
    for about one ``cycle``. The sum of both is smallest at ``sqrt(CYCLE_COST * step)``.
    """
    best = math.sqrt(CYCLE_COST * max(step_seconds, 0.0))
    return min(max(best, SHORTEST_CYCLE), LONGEST_CYCLE)


def load() -> Any:
    """Import and return Horovod's torch module.

    Raises
    ------
    UsageError
        If it cannot be used, with the reason in one line.
    """
    try:
        import horovod.torch as hvd
    except (
        Exception
    ) as e:  # a broken build fails in many ways: ImportError, OSError, AttributeError
        raise UsageError(f"Horovod cannot be used ({type(e).__name__}: {e})") from e
    if not hvd.mpi_built():
        raise UsageError("Horovod cannot be used (it was built without MPI)")
    return hvd


class HorovodCollectives(MpiCollectives):
    """Exchange gradients with Horovod's allreduce and the small statistics of losses with MPI.

    Horovod exchanges tensors in cycles, which suits one large gradient but not an exchange within a
    loss. It is started with the first gradient, when the time of a step is known
    (``step_seconds``). A user's own ``HOROVOD_CYCLE_TIME`` is kept.

    Parameters
    ----------
    topology
        The grid.
    least_bytes
        Smaller gradients in host memory are exchanged with MPI, because the step of a small network
        is shorter than Horovod's cycles (128 KB on 2 ranks: 2.5 ms a step more than MPI).

    Raises
    ------
    UsageError
        If Horovod cannot be used on all ranks.
    """

    name = "horovod"

    def __init__(self, topology: Topology, least_bytes: int = 0) -> None:
        with together(topology.world):  # broken on one rank is broken for all
            self._hvd = hvd = load()
            if topology.device.type == "cuda" and not (hvd.cuda_built() or hvd.rocm_built()):
                raise UsageError("Horovod cannot be used (it was built without GPUs)")
        shared = devices.sharing(topology.world.allgather(devices.used(topology.device)))
        with together(topology.world):
            if shared and hvd.nccl_built():
                raise UsageError(f"Horovod cannot be used (with NCCL, because {shared})")
        super().__init__(topology)
        self.least_bytes = least_bytes
        self._started = False
        self._is_needed = False
        #: Horovod's process sets, by the ranks over which gradients are summed.
        self._sets: dict[Over, Any] = {}

    def start(self, over: Over = "replicas") -> None:
        """Start Horovod with the cycle time that fits the slowest rank's step. Collective.

        It starts once in a process; later transports use the process sets that it has.

        Parameters
        ----------
        over
            Ranks over which gradients are summed, which become a process set. All ranks already are
            one, the global set; Horovod fails if it is created again.

        Raises
        ------
        UsageError
            If Horovod already runs in this process, on other ranks.
        """
        from mpi4py import MPI

        world, some, hvd = self._comms["world"], self._comms[over], self._hvd
        if not hvd.is_initialized():
            seconds = world.allreduce(self.step_seconds or 0.1, op=MPI.MAX)
            os.environ.setdefault("HOROVOD_CYCLE_TIME", f"{cycle_time(seconds) * 1e3:.3f}")
            # Without this limit the stall check only warns and never ends the job.
            os.environ.setdefault("HOROVOD_STALL_SHUTDOWN_TIME_SECONDS", "600")
            os.environ.setdefault("HOROVOD_LOG_LEVEL", "error")
            sets = [hvd.ProcessSet(some)] if 1 < some.size < world.size else []
            hvd.init(comm=world, process_sets=sets)
            _process_sets.update({tuple(s.ranks): s for s in sets})
        with together(world):
            if (hvd.rank(), hvd.size()) != (world.rank, world.size):
                raise UsageError(
                    f"Horovod runs in this process as rank {hvd.rank()} of {hvd.size()}, and "
                    f"cannot be rank {world.rank} of {world.size} as well; use "
                    f'parallel.collectives = "mpi"'
                )
        for each in ("data", "replicas"):  # it may have been started by another run
            ranks = tuple(self._comms[each].allgather(world.rank))
            everyone = len(ranks) == world.size
            self._sets[each] = hvd.global_process_set if everyone else _process_sets.get(ranks)
        self._started = True

    def settings(self) -> dict[str, Any]:
        """Return the name and the cycle time."""
        # Other code may have started Horovod before, with its default cycle time.
        cycle = float(os.environ.get("HOROVOD_CYCLE_TIME", 1)) if self._started else None
        return {
            "name": self.name,
            "cycle_milliseconds": cycle,
            "smaller_by_mpi_bytes": self.least_bytes,
        }

    def expect(self, size: int) -> None:
        """Agree whether any rank needs Horovod, because all ranks must start it together."""
        from mpi4py import MPI

        self._is_needed = self._comms["world"].allreduce(size, op=MPI.MAX) >= self.least_bytes

    def sum_gradient_(self, x: Tensor, over: Over) -> None:
        """Sum a gradient over the ranks ``over``, in place."""
        self.begin_sum_gradient(x, over)()

    def begin_sum_gradient(self, x: Tensor, over: Over) -> Callable[[], None]:
        """Begin to sum a gradient over the ranks. Horovod's thread sums it in its next cycle."""
        if not self._started and (self._is_needed or not self._is_small(x)):
            self.start(over)
        ranks = None if self._is_small(x) else self._set_of(over)
        if ranks is None:  # small, or Horovod was started without these ranks
            return super().begin_sum_gradient(x, over)
        name = f"hpcsamp.{over}.{x.numel()}.{x.dtype}.{x.storage_offset()}"
        handle = self._hvd.allreduce_async_(x, op=self._hvd.Sum, name=name, process_set=ranks)

        def wait() -> None:
            with here.waiting(Doing.EXCHANGE):
                self._hvd.synchronize(handle)

        return wait

    def _set_of(self, over: Over) -> Any:
        """Return Horovod's process set of the ranks ``over``; None if there is none."""
        if self.size(over) == self.size("world"):
            return self._hvd.global_process_set
        return self._sets.get(over)

    def _is_small(self, x: Tensor) -> bool:
        return x.device.type == "cpu" and x.nbytes < self.least_bytes
