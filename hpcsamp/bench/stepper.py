"""Run a few steps of the real training loop at a time, to time them."""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from hpcsamp.config import RunConfig
from hpcsamp.data import Batch
from hpcsamp.devices import synchronise
from hpcsamp.grid import Topology
from hpcsamp.training.loop import Trainer
from hpcsamp.training.phases import NAMES, Phases
from hpcsamp.watchdog import here


class Stepper:
    """The training loop of ``hpcsamp train`` without evaluations, a few steps at a time.

    Creating it and all its methods are collective over the world.

    Parameters
    ----------
    config
        Checked configuration, whose data exist.
    topology
        The grid.
    stack
        Exit stack that closes open files.
    """

    def __init__(self, config: RunConfig, topology: Topology, stack: ExitStack) -> None:
        self.topology = topology
        scratch = stack.enter_context(tempfile.TemporaryDirectory())
        folder = topology.world.bcast(Path(scratch) / "run")
        self.trainer = stack.enter_context(Trainer(config, topology, folder, quiet=True))
        self.steps_per_epoch = self.trainer.steps_per_epoch
        self._next = self._forever()

    def take(self, count: int) -> float:
        """Run some steps with their feed; return the mean seconds per step of the slowest rank."""
        self._start()
        began = time.perf_counter()
        for epoch, batch in itertools.islice(self._next, count):
            self.trainer.step(epoch, batch)
        return self._took(began) / count

    def take_watched(self, count: int) -> dict[str, float]:
        """Run some steps; return the mean seconds per step by phase on this rank."""
        phases = Phases(self.topology.device)
        with here.listening(phases.timed):
            took = self.take(count)
        seconds = {name: phases.seconds[name] / count for name in NAMES}
        seconds["other"] = max(0.0, took - sum(seconds.values()))
        return seconds

    def _forever(self) -> Iterator[tuple[int, Batch]]:
        for epoch in itertools.count():
            for batch in self.trainer.batches(epoch):
                yield epoch, batch

    def _start(self) -> None:
        synchronise(self.topology.device)
        self.topology.world.Barrier()

    def _took(self, began: float) -> float:
        synchronise(self.topology.device)
        return max(self.topology.world.allgather(time.perf_counter() - began))

    def facts(self) -> dict[str, Any]:
        """Return the fields of a record that describe the measured step."""
        trainer = self.trainer
        return {
            "sample_group_size": self.topology.sample_size,
            "data_group_size": self.topology.data_size,
            "model_group_size": self.topology.model_size,
            "steps_per_epoch": self.steps_per_epoch,
            "items": trainer.dataset.count,
            "trained": sum(p.numel() for p in trainer.method.parameters()),
            "collectives": trainer.collectives.settings(),
            "device": self.topology.device.type,
            "precision": trainer.config.training.precision,
            "threads": torch.get_num_threads(),
        }
