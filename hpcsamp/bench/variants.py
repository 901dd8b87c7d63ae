"""Variants of a benchmark: a configuration, a program and its ranks, as one line of JSON."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol

from hpcsamp import config as configuration
from hpcsamp.bench.turns import VariantJob
from hpcsamp.config import RunConfig
from hpcsamp.grid import Topology

if TYPE_CHECKING:
    from hpcsamp.bench.baselines.network import Training

OURS = "hpcsamp"


@dataclass(frozen=True)
class Variant:
    """A variant: hpcsamp or a baseline, its configuration and its ranks.

    Attributes
    ----------
    name
        ``hpcsamp``, or one of :data:`hpcsamp.bench.baselines.BASELINES`.
    label
        Name of its row in the table.
    config, preset, settings
        The configuration, as ``hpcsamp train`` takes it.
    ranks
        Number of MPI ranks.
    data
        Dataset folder, ``"synthetic"``, or None for ``data.path``.
    steps
        Number of steps per round; 0 for an epoch.
    """

    name: str
    label: str
    config: str
    preset: str | None
    settings: tuple[str, ...]
    ranks: int
    data: str | None = None
    steps: int = 1

    def job(self, threads: int = 1, core: int | None = None) -> VariantJob:
        """Start the job of the variant; ``core``: see :class:`VariantJob`."""
        arguments = ["-m", "hpcsamp.bench.worker", json.dumps(asdict(self))]
        environment = {"OMP_NUM_THREADS": str(threads)}
        if core is not None:
            environment["OMPI_MCA_hwloc_base_binding_policy"] = "none"  # mpirun binds anew
        return VariantJob(self.label, self.ranks, arguments, environment, core=core)


class VariantRunner(Protocol):
    """Interface that :func:`hpcsamp.bench.worker.serve` calls on all ranks."""

    def about(self) -> dict[str, Any]:
        """Return fields of the record that describe the variant."""
        ...

    def round(self) -> dict[str, Any]:
        """Return the seconds of a step."""
        ...

    def watch(self) -> dict[str, Any]:
        """Return the seconds per step by phase; empty if phases are not measured."""
        ...


def prepared(variant: Variant) -> tuple[RunConfig, Topology]:
    """Return configuration, data and grid of a variant as in ``hpcsamp train``. Collective."""
    from hpcsamp.grid import init, together
    from hpcsamp.run.prepare import prepare
    from hpcsamp.runtime import mpi

    world = mpi().COMM_WORLD
    with together(world):
        run = configuration.load(variant.config, variant.settings, preset=variant.preset)
    topology = init(run.parallel.samples, model=run.parallel.model, device=run.parallel.device)
    return prepare(run, variant.data, topology.world), topology


def runner_of(variant: Variant, stack: ExitStack) -> VariantRunner:
    """Build a variant on the ranks of this job. Collective."""
    config, topology = prepared(variant)
    if variant.name == OURS:
        return Ours(config, topology, variant.steps, stack)
    from hpcsamp.bench.baselines import BASELINES

    training = BASELINES[variant.name](config, topology)
    # after an error the job is ended instead, because closing might wait for a failed rank
    stack.push(lambda kind, *_: training.close() if kind is None else None)
    return Theirs(training, topology, variant.steps)


class Ours:
    """The training loop of hpcsamp."""

    def __init__(self, config: RunConfig, topology: Topology, steps: int, stack: ExitStack) -> None:
        from hpcsamp.bench.stepper import Stepper

        self.stepper = Stepper(config, topology, stack)
        self.steps = steps or self.stepper.steps_per_epoch

    def about(self) -> dict[str, Any]:
        """Return the grid, the sizes and the transport."""
        return self.stepper.facts()

    def round(self) -> dict[str, Any]:
        """Return the seconds of a step."""
        return {"seconds": self.stepper.take(self.steps)}

    def watch(self) -> dict[str, Any]:
        """Return the seconds of a step by phase."""
        return self.stepper.take_watched(self.steps)


class Theirs:
    """A baseline."""

    def __init__(self, training: Training, topology: Topology, steps: int) -> None:
        self.training, self.topology, self.steps = training, topology, max(1, steps)

    def about(self) -> dict[str, Any]:
        """Return the number of threads and of parameters, the device, and facts of the baseline."""
        import torch

        return {
            **self.training.facts,
            "threads": torch.get_num_threads(),
            "device": self.topology.device.type,
            "trained": sum(p.numel() for p in self.training.network.parameters()),
        }

    def round(self) -> dict[str, Any]:
        """Return the seconds of a step on the slowest rank."""
        from hpcsamp.devices import synchronise

        world, device = self.topology.world, self.topology.device
        synchronise(device)
        world.Barrier()
        began = time.perf_counter()
        for _ in range(self.steps):
            self.training.step()
        synchronise(device)
        took = max(world.allgather(time.perf_counter() - began))
        return {"seconds": took / self.steps}

    def watch(self) -> dict[str, Any]:
        """Return an empty dictionary: phases of baselines are not measured."""
        return {}
