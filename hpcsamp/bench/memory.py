"""``hpcsamp bench memory``: memory of training steps, measured and predicted.

The largest resident memory of each rank is measured while its run is built, while it takes steps,
and while a checkpoint is written in the background. Linux counts a page of shared memory
on every rank that touches it; here it counts once and is shared out among these ranks (as in the
proportional set size, PSS), so that the sum over ranks is what their node needs. The prediction is
that of :func:`hpcsamp.planning.memory.estimate`.
"""

from __future__ import annotations

import re
from contextlib import ExitStack
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Resident:
    """Resident memory of this process in MiB.

    Attributes
    ----------
    anonymous, files, shared
        Private memory, mapped files (libraries), and all pages of shared memory that this process
        has touched.
    proportional
        Shared memory, with each page divided by the number of processes that map it.
    """

    anonymous: float = 0.0
    files: float = 0.0
    shared: float = 0.0
    proportional: float = 0.0

    @classmethod
    def now(cls) -> Resident:
        """Read the values from ``/proc``; all are 0 on systems other than Linux."""
        try:
            status = Path("/proc/self/status").read_text()
            pages = Path("/proc/self/smaps_rollup").read_text()
        except OSError:
            return cls()
        anonymous, files, shared = (_of(status, f"Rss{of}") for of in ("Anon", "File", "Shmem"))
        return cls(anonymous, files, shared, _of(pages, "Pss_Shmem"))


def measure(config: RunConfig, data: str | None, steps: int, comm: MPI.Comm) -> dict[str, Any]:
    """Build a run, take some steps, and compare with the prediction. Collective.

    Parameters
    ----------
    config
        The checked configuration.
    data
        Dataset folder, ``"synthetic"``, or None for that of the configuration.
    steps
        Number of steps; optimisers create their state in the first one.

    Returns
    -------
    dict
        ``grid``: (D, P, M). ``parts``: predicted bytes by name. ``predicted`` and
        ``predicted_keeping``: MiB of the fullest rank, without and with the copy for a checkpoint.
        ``seconds``: duration of the last step.

        Lists of MiB by rank: ``process``, memory before the run is built, plus the libraries that
        are loaded later; ``building``, ``stepping`` and ``keeping``, the peak of each phase
        (``keeping`` is None if no copy is made); ``resident``, the peak of the steps with every
        shared page that a rank touches.
    """
    config = prepare(config, data, comm)
    topology = init(config.parallel.samples, model=config.parallel.model, comm=comm)
    with ExitStack() as stack:
        before = Resident.now()
        _forget_peak()
        stepper = Stepper(config, topology, stack)
        building = _peak()
        _forget_peak()
        seconds = [stepper.take(1) for _ in range(steps)][-1]
        stepping, resident = _peak(), peak_rss_mb()
        keeper, keeping = stepper.trainer.keeper, None
        if config.training.checkpoint_behind:
            _forget_peak()
            keeper.keep()
            stepper.take(1)
            keeping = _peak()
            keeper.finish()
        run = stepper.trainer.assembled
        blank = parted.blank(run.config, run.shapes, topology.sample_size, topology.model_size)
        ranks = topology.node_comm.Get_size()
        grid = memory.Grid(topology.sample_size, topology.data_size, ranks)
        blank.method.samples_per_pass = run.method.passes.chunk
        steps_alone = memory.estimate(blank, grid, copies=False)
        parts = memory.estimate(blank, grid)
        return {
            "grid": [topology.data_size, topology.sample_size, topology.model_size],
            "sharded": str(config.optimizer.sharded),
            "trained": sum(p.numel() for p in blank.method.parameters()),
            "parts": {p.name: p.bytes for p in parts},
            "predicted": sum(p.bytes for p in steps_alone) / 2**20,
            "predicted_keeping": sum(p.bytes for p in parts) / 2**20,
            "predicted_process": memory.PROCESS / 2**20,
            "process": comm.allgather(before.anonymous + Resident.now().files),
            "building": comm.allgather(building),
            "stepping": comm.allgather(stepping),
            "keeping": comm.allgather(keeping) if keeping is not None else None,
            "resident": comm.allgather(resident),
            "seconds": seconds,
        }


def _peak() -> float:
    """Return the largest resident memory since :func:`_forget_peak`, shared pages divided, in MiB.

    Only shared memory that is mapped now is divided; windows live as long as the run.
    """
    now = Resident.now()
    return peak_rss_mb() - now.shared + now.proportional


def _of(text: str, name: str) -> float:
    """Return the MiB of a line such as ``RssAnon:  1234 kB``; 0 if there is no such line."""
    found = re.search(rf"^{name}:\s+(\d+) kB", text, re.MULTILINE)
    return int(found[1]) / 1024 if found else 0.0


def _forget_peak() -> None:
    """Reset the largest resident memory of this process, where the system can (Linux)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return
