"""Training steps to be timed: a configuration on inputs made up in the shapes of its data."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hpcsamp import config as configuration
from hpcsamp import losses, methods
from hpcsamp.collectives import Collectives, distribute
from hpcsamp.config import RunConfig
from hpcsamp.data import Dataset
from hpcsamp.grid import Topology
from hpcsamp.losses import ELBO
from hpcsamp.methods import Method
from hpcsamp.planning.memory import Shapes
from hpcsamp.planning.workload import Workload
from hpcsamp.run import build
from hpcsamp.run.prepare import source_of
from hpcsamp.streams import Purpose, torch_generator
from hpcsamp.training.agreement import Agreement

ITEMS = 45_000
"""N of the losses."""


@dataclass
class Subject:
    """A configuration whose step is measured, with inputs made up in the shapes of its data."""

    name: str
    config: RunConfig
    shapes: Shapes
    work: Workload

    @classmethod
    def of(cls, name: str) -> Subject:
        """``CONFIG`` or ``CONFIG:PRESET``.

        Raises
        ------
        UsageError
            If there is no such configuration, or it does not say what its data look like.
        """
        path, _, preset = name.partition(":")
        config = configuration.load(path, preset=preset or None)
        section = config.data.synthetic
        if section is not None:
            shapes = Shapes.of(config, source_of(section))
        else:
            with Dataset.open(config.data.path) as dataset:
                shapes = Shapes.of(config, dataset)
        return cls(name, config, shapes, Workload.of(config, shapes))

    def method(self, own: range, samples: int, device: torch.device) -> Method:
        """The method of this rank, with parameters of its own."""
        c = self.config
        values = self.shapes.outputs // build.likelihood(c).parameters
        made = methods.make(
            c.method.name,
            lambda member: build.network(
                c, self.shapes.x, values, np.ones(self.shapes.y), member=member
            ),
            c.method.arguments,
            samples=samples,
            own=own,
            seed=c.seed,
            samples_per_pass=c.method.samples_per_pass,
            autocast=torch.bfloat16 if c.training.precision == "bfloat16" else None,
        )
        made = made.to(device=device, dtype=build.DTYPES[c.training.precision])
        made.begin(ITEMS, 1000, 100)
        return made

    def batch(self, items: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Inputs and targets."""
        generator = torch_generator("cpu", 1, Purpose.SYNTHETIC)
        kind = build.DTYPES[self.config.training.precision]
        x = torch.randn(items, *self.shapes.x, generator=generator).to(device, kind)
        if self.shapes.ids:
            x = torch.zeros_like(x, dtype=torch.int64)  # an id that every embedding has
        if self.config.task == "classification":
            y = torch.randint(0, self.shapes.outputs, (items,), generator=generator)
            return x, y.to(device)
        return x, torch.randn(items, *self.shapes.y, generator=generator).to(device, kind)


class Step:
    """A training step without its feed, on one rank or on all."""

    def __init__(
        self, subject: Subject, samples: int, collectives: Collectives, topology: Topology
    ) -> None:
        c = subject.config
        self.samples, self.topology = samples, topology
        self.many = collectives.sample_size > 1
        own = topology.samples(samples) if self.many else range(samples)
        self.method = subject.method(own, samples, topology.device)
        arguments = {k: v for k, v in c.loss.arguments.items() if k != "latitudes"}
        self.loss = ELBO(
            losses.make(c.loss.name, c.task, arguments), ITEMS, collectives, memory=c.loss.memory,
            kl=c.loss.kl,
        )  # fmt: skip
        self.optimizer = distribute(
            build.optimizer(c, self.method, list(self.method.parameters())),
            collectives,
            self.method,
        )

    def whole(self, x: Tensor, y: Tensor) -> None:
        """All that the training loop does between two batches."""
        loss = self._loss(x, y)
        agreement = Agreement(self.topology, self.loss.parts) if self.many else None
        loss.backward()
        if agreement is not None:
            agreement.end("a measured step", ())
        self.optimizer.step()
        self.optimizer.zero_grad()

    def update(self) -> None:
        """The optimiser alone."""
        self.optimizer.step()

    def _loss(self, x: Tensor, y: Tensor) -> Tensor:
        index = torch.arange(len(x))
        return self.loss(self.method, x, y, samples=self.samples, index=index, whole=False)
