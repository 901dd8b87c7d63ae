"""A trainer whose steps are taken when one likes: the training loop itself, to be timed."""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from hpcsamp.bench.phases import NAMES, Phases
from hpcsamp.config import RunConfig
from hpcsamp.data import Batch
from hpcsamp.grid import Topology
from hpcsamp.run.resolve import resolved
from hpcsamp.training import preemption
from hpcsamp.training.loop import Trainer
from hpcsamp.training.progress import Reporter


class Stepper(Trainer):
    """All that ``hpcsamp train`` does between two evaluations, a few steps at a time.

    Collective over the world, as are all methods.

    Parameters
    ----------
    config
        The checked configuration, whose data are there.
    topology
        The grid.
    stack
        Closes what was opened.
    """

    def __init__(self, config: RunConfig, topology: Topology, stack: ExitStack) -> None:
        scratch = stack.enter_context(tempfile.TemporaryDirectory())
        super().__init__(resolved(config), topology, Path(scratch) / "run")
        self._mine = topology.samples(config.method.samples)
        self.watch = stack.enter_context(preemption.Watch(None, 60.0))
        self._build(stack)
        if topology.is_root:
            self.folder.prepare(self.config, False)
        self.reporter = Reporter(False, self.steps, 0)
        self.times: list[float] = []
        self._next = self._forever()

    def take(self, count: int) -> float:
        """Take some steps, feed and all; seconds of a step, the mean, of the slowest rank."""
        self._start()
        began = time.perf_counter()
        for epoch, batch in itertools.islice(self._next, count):
            self._step(epoch, batch)
        return self._took(began) / count

    def take_watched(self, count: int) -> dict[str, float]:
        """Take some steps; seconds of a step by phase, the mean, on this rank."""
        phases = Phases(self.topology.device)
        self._start()
        began = time.perf_counter()
        with phases.watching(self):
            for _ in range(count):
                with phases.timed("feed"):
                    epoch, batch = next(self._next)
                self._step(epoch, batch)
        took = self._took(began)
        seconds = dict(phases.seconds)
        seconds["other"] = max(0.0, took - sum(seconds.values()))
        return {name: seconds.get(name, 0.0) / count for name in NAMES}

    def _forever(self) -> Iterator[tuple[int, Batch]]:
        for epoch in itertools.count():
            for batch in self._batches(epoch, 0):
                yield epoch, batch

    def _start(self) -> None:
        self._synchronise()
        self.topology.world.Barrier()

    def _took(self, began: float) -> float:
        self._synchronise()
        return max(self.topology.world.allgather(time.perf_counter() - began))

    def _synchronise(self) -> None:
        if self.topology.device.type == "cuda":
            torch.cuda.synchronize()

    def facts(self) -> dict[str, Any]:
        """What was measured, for the record."""
        return {
            "sample_group_size": self.topology.sample_size,
            "data_group_size": self.topology.data_size,
            "steps_per_epoch": self.steps_per_epoch,
            "items": self.dataset.count,
            "trained": sum(p.numel() for p in self.method.parameters()),
            "collectives": self.collectives.settings(),
            "device": self.topology.device.type,
            "precision": self.config.training.precision,
            "threads": torch.get_num_threads(),
        }
