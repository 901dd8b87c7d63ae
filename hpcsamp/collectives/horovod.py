"""The default transport: gradients by Horovod."""

from __future__ import annotations

import math
import os
from typing import Any

from torch import Tensor

from hpcsamp.collectives.mpi import MpiCollectives
from hpcsamp.errors import UsageError
from hpcsamp.grid import Topology, together
from hpcsamp.watchdog import Doing, here

#: Compute that one cycle of Horovod's thread takes from its rank's core, in seconds.
CYCLE_COST = 5e-5
#: Bounds of the cycle time in seconds.
SHORTEST_CYCLE, LONGEST_CYCLE = 1e-4, 2.5e-2

#: Those that Horovod was started with in this process, by their ranks.
_process_sets: dict[tuple[int, ...], Any] = {}


def cycle_time(step_seconds: float) -> float:
    """Seconds between two looks of Horovod's thread for tensors to exchange.

    Every cycle steals a little compute (on CPU ranks the thread and the model share a core, and the
    cycle is a blocking MPI exchange), so per step ``CYCLE_COST * step / cycle`` is lost to it;
    the gradient waits about one ``cycle`` for its turn. The sum is least at
    ``sqrt(CYCLE_COST * step)``.
    """
    best = math.sqrt(CYCLE_COST * max(step_seconds, 0.0))
    return min(max(best, SHORTEST_CYCLE), LONGEST_CYCLE)


def load() -> Any:
    """Horovod's torch module.

    Raises
    ------
    UsageError
        Saying in one line what is wrong with the installation.
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
    """Gradients by Horovod's allreduce; the small statistics of losses by MPI.

    Horovod gathers tensors in cycles, which suits one large gradient and not an exchange in the
    middle of a loss. It is started with the first gradient, when the time of a step is known
    (``step_seconds``); a user's own ``HOROVOD_CYCLE_TIME`` is kept.

    Parameters
    ----------
    topology
        The grid.
    least_bytes
        Smaller gradients in host memory go by MPI, too: a small network's step is shorter than
        Horovod's cycles (128 KB on 2 ranks: 2.5 ms a step more than MPI).
    """

    name = "horovod"

    def __init__(self, topology: Topology, least_bytes: int = 0) -> None:
        super().__init__(topology)
        self.least_bytes = least_bytes
        self._hvd = load()
        self._topology = topology
        self._started = False

    def start(self, data_groups: bool = False) -> None:
        """Start Horovod with the cycle time that fits the slowest rank's step. Collective.

        It starts once in a process: who comes later finds it with the process sets that it has.

        Parameters
        ----------
        data_groups
            Whether gradients are summed over data groups, which then become process sets. (One that
            equals the world would make Horovod fail, and is the global set.)

        Raises
        ------
        UsageError
            If Horovod runs in this process already, on other ranks.
        """
        from mpi4py import MPI

        world, hvd = self._world, self._hvd
        if not hvd.is_initialized():
            seconds = world.allreduce(self.step_seconds or 0.1, op=MPI.MAX)
            os.environ.setdefault("HOROVOD_CYCLE_TIME", f"{cycle_time(seconds) * 1e3:.3f}")
            # The stall check only ever warns unless it is told to end the job.
            os.environ.setdefault("HOROVOD_STALL_SHUTDOWN_TIME_SECONDS", "600")
            os.environ.setdefault("HOROVOD_LOG_LEVEL", "error")
            sets = []
            if data_groups and 1 < self.data_size < world.size:
                sets = [hvd.ProcessSet(self._data_comm)]
            hvd.init(comm=world, process_sets=sets)
            _process_sets.update({tuple(s.ranks): s for s in sets})
        with together(world):
            if (hvd.rank(), hvd.size()) != (world.rank, world.size):
                raise UsageError(
                    f"Horovod runs in this process as rank {hvd.rank()} of {hvd.size()}, and "
                    f"cannot be rank {world.rank} of {world.size} as well; use "
                    f'parallel.collectives = "mpi"'
                )
        ranks = tuple(self._data_comm.allgather(world.rank))
        everyone = len(ranks) == world.size
        self._data_set = hvd.global_process_set if everyone else _process_sets.get(ranks)
        self._started = True

    def settings(self) -> dict[str, Any]:
        """Name and cycle time."""
        # Somebody may have started Horovod before, with its own default
        cycle = float(os.environ.get("HOROVOD_CYCLE_TIME", 1)) if self._started else None
        return {
            "name": self.name,
            "cycle_milliseconds": cycle,
            "smaller_by_mpi_bytes": self.least_bytes,
        }

    def world_sum_(self, x: Tensor) -> None:
        """Sum over all ranks, in place."""
        if self._is_small(x):
            super().world_sum_(x)
            return
        if not self._started:
            self.start()
        with here.waiting(Doing.EXCHANGE):
            self._hvd.allreduce_(x, op=self._hvd.Sum, name=f"hpcsamp.{x.numel()}.{x.dtype}")

    def data_gradient_sum_(self, x: Tensor) -> None:
        """Sum over the data group, in place."""
        if self._is_small(x):
            super().data_gradient_sum_(x)
            return
        if not self._started:
            self.start(data_groups=True)
        if self._data_set is None:  # Horovod was started without it
            super().data_gradient_sum_(x)
            return
        name = f"hpcsamp.data.{x.numel()}.{x.dtype}"
        with here.waiting(Doing.EXCHANGE):
            self._hvd.allreduce_(x, op=self._hvd.Sum, name=name, process_set=self._data_set)

    def _is_small(self, x: Tensor) -> bool:
        return x.device.type == "cpu" and x.nbytes < self.least_bytes
