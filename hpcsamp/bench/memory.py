"""``hpcsamp bench memory``: what training steps take of memory, beside what was predicted.

Each rank's largest resident memory while its run is built, and while it takes steps; evaluations
and checkpoints are not in it. Beside that stands :func:`hpcsamp.planning.memory.estimate`.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpcsamp.bench.stepper import Stepper
from hpcsamp.config import RunConfig
from hpcsamp.grid import init
from hpcsamp.planning import memory, parted
from hpcsamp.processes import peak_rss_mb
from hpcsamp.run.prepare import prepare

if TYPE_CHECKING:
    from mpi4py import MPI


def measure(config: RunConfig, data: str | None, steps: int, comm: MPI.Comm) -> dict[str, Any]:
    """Build a run, take some steps, and compare. Collective.

    Parameters
    ----------
    config
        The checked configuration.
    data
        Dataset folder, ``"synthetic"``, or None for that of the configuration.
    steps
        How many are taken; the first ones have no state of the optimiser yet.

    Returns
    -------
    dict
        ``grid`` (D, P, M), the predicted ``parts`` in bytes by name, ``predicted`` MiB of the
        fullest rank, and of each rank ``building`` and ``stepping``, its largest MiB.
    """
    config = prepare(config, data, comm)
    topology = init(config.parallel.samples, model=config.parallel.model, comm=comm)
    with ExitStack() as stack:
        _forget_peak()
        stepper = Stepper(config, topology, stack)
        building = peak_rss_mb()
        _forget_peak()
        stepper.take(steps)
        stepping = peak_rss_mb()
        run = stepper.trainer.assembled
        blank = parted.blank(run.config, run.shapes, topology.sample_size, topology.model_size)
        ranks = topology.node_comm.Get_size()
        grid = memory.Grid(topology.sample_size, topology.data_size, ranks)
        blank.method.samples_per_pass = run.method.passes.chunk
        parts = memory.estimate(blank, grid)
        return {
            "grid": [topology.data_size, topology.sample_size, topology.model_size],
            "sharded": str(config.optimizer.sharded),
            "trained": sum(p.numel() for p in blank.method.parameters()),
            "parts": {p.name: p.bytes for p in parts},
            "predicted": sum(p.bytes for p in parts) / 2**20,
            "building": comm.allgather(building),
            "stepping": comm.allgather(stepping),
        }


def _forget_peak() -> None:
    """Have the largest resident memory counted from now on; where the system can (Linux)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return
