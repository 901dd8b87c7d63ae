"""Training steps to time: a configuration with random inputs in the shapes of its data."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hpcsamp import config as configuration
from hpcsamp.collectives import Collectives
from hpcsamp.config import RunConfig
from hpcsamp.grid import Topology
from hpcsamp.planning.workload import Workload
from hpcsamp.run.assemble import DTYPES, Run
from hpcsamp.run.optimisation import Optimisation
from hpcsamp.run.shapes import DataShapes
from hpcsamp.streams import Purpose, torch_generator
from hpcsamp.training.step_agreement import Agreement
from hpcsamp.weights.inputs import each

ITEMS, STEPS_PER_EPOCH = 45_000, 100
"""Number of training items N, and of steps per epoch, for losses and schedules."""


@dataclass
class Subject:
    """A configuration whose step is measured, with random inputs in the shapes of its data."""

    name: str
    config: RunConfig
    shapes: DataShapes
    work: Workload

    @classmethod
    def of(cls, name: str) -> Subject:
        """Load ``CONFIG`` or ``CONFIG:PRESET``.

        Raises
        ------
        UsageError
            If the configuration does not exist, or does not describe its data.
        """
        path, _, preset = name.partition(":")
        config = configuration.load(path, preset=preset or None)
        shapes = DataShapes.described(config)
        return cls(name, config, shapes, Workload.of(config, shapes))

    def batch(self, items: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return random inputs and targets."""
        generator = torch_generator("cpu", 1, Purpose.SYNTHETIC)
        kind = DTYPES[self.config.training.precision]
        x = each(
            lambda t: (
                torch.randn(t.shape, generator=generator).to(device, kind)
                if t.is_floating_point()
                else t
            ),
            self.shapes.batch(items, dtype=kind, device=device),
        )
        classes = self.shapes.targets.classes
        if classes is not None:
            y = torch.randint(0, classes, (items, *self.shapes.y), generator=generator)
            return x, y.to(device)
        return x, torch.randn(items, *self.shapes.y, generator=generator).to(device, kind)


class BenchStep:
    """A training step without its feed, on one rank or on all ranks."""

    def __init__(
        self, subject: Subject, samples: int, collectives: Collectives, topology: Topology
    ) -> None:
        c = subject.config
        self.samples, self.topology = samples, topology
        self.many = collectives.sample_size > 1
        own = topology.samples(samples) if self.many else range(samples)
        c = c.model_copy(update={"method": c.method.model_copy(update={"samples": samples})})
        run = Run(c, subject.shapes, own, topology.device)
        made = Optimisation(
            run, topology, collectives, items=ITEMS, steps_per_epoch=STEPS_PER_EPOCH
        )
        self.method, self.loss, self.optimizer = run.method, made.loss, made.optimizer

    def whole(self, x: Tensor, y: Tensor) -> None:
        """Do everything that the training loop does between two batches."""
        loss = self._loss(x, y)
        agreement = Agreement(self.topology, lambda: self.loss.parts) if self.many else None
        loss.backward()
        if agreement is not None:
            agreement.end("a measured step", ())
        self.optimizer.step()
        self.optimizer.zero_grad()

    def update(self) -> None:
        """Run the optimiser only."""
        self.optimizer.step()

    def _loss(self, x: Tensor, y: Tensor) -> Tensor:
        index = torch.arange(len(x))
        return self.loss(self.method, x, y, samples=self.samples, index=index, whole=False)
