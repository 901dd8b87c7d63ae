"""A method as a run left it, ready to predict on any grid."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hpcsamp import collectives as exchange
from hpcsamp.collectives import Collectives
from hpcsamp.config import RunConfig, check
from hpcsamp.data import Dataset
from hpcsamp.data.manifest import Manifest, read_manifest
from hpcsamp.errors import CheckpointError
from hpcsamp.grid import Topology, share_samples, together
from hpcsamp.losses import FittedGaussian, Likelihood
from hpcsamp.methods import Method
from hpcsamp.prediction import noise
from hpcsamp.prediction.evaluate import Evaluator
from hpcsamp.prediction.schema import as_trained
from hpcsamp.run import build, checkpoint, state
from hpcsamp.run.folder import RunFolder


@dataclass
class Restored:
    """A run's method on this grid, and what predictions with it need.

    Attributes
    ----------
    trained
        Manifest of the set it was trained on: its statistics standardise all inputs.
    likelihood, noise
        Observation model, and where its noise comes from, for records.
    checkpoint, step
        Where the parameters come from.
    samples
        ``S`` of the predictive distribution.
    run
        Name of the run, see :class:`RunFolder`.
    """

    config: RunConfig
    topology: Topology
    method: Method
    trained: Manifest
    likelihood: Likelihood
    noise: dict[str, Any]
    checkpoint: Path
    step: int
    samples: int
    collectives: Collectives
    run: str

    def facts(self) -> dict[str, Any]:
        """What must be known of every result, for records."""
        return {
            "run": self.run,
            "checkpoint": self.checkpoint.name,
            "step": self.step,
            "samples": self.samples,
            "method": self.config.method.name,
            "temperature": self.config.loss.temperature,
            **({"noise": self.noise} if self.noise else {}),
        }

    def open(
        self, data: str | Path | None, split: str | None, inputs_only: bool = False
    ) -> Dataset:
        """A split of a dataset that fits; of the run's own if ``data`` is None.

        Without a name it is ``test``, or the first one if there is no ``test``. Not collective.

        Raises
        ------
        DataError
            If there is no such split, or its numbers mean something else.
        """
        path = Path(data if data is not None else self.config.data.path)
        if split is None:
            splits = read_manifest(path).splits
            split = "test" if "test" in splits else next(iter(splits))
        folder = Path(self.config.data.path)
        opened = Dataset.open(path, split)
        return as_trained(opened, self.trained, folder, inputs_only=inputs_only)

    def evaluator(self, dataset: Dataset) -> Evaluator:
        """An evaluator of a split. Collective over the world."""
        c = self.config
        return Evaluator(
            dataset,
            self.topology,
            self.collectives,
            self.likelihood,
            samples=self.samples,
            batch=c.evaluation.batch,
            bins=c.evaluation.bins,
            dtype=build.DTYPES[c.training.precision],
            reader=c.data.reader,
        )


def restore(
    folder: RunFolder,
    config: RunConfig,
    topology: Topology,
    *,
    samples: int | None = None,
    which: str = "last",
) -> Restored:
    """The method of a run with the parameters of a checkpoint. Collective over the world.

    Parameters
    ----------
    samples
        ``S`` of the predictive distribution; None for as many as the method has or usually draws.
    which
        ``"last"``, ``"best"``, or the path of a checkpoint.

    Raises
    ------
    CheckpointError, DataError, UsageError
        If there is no checkpoint or it is of another configuration, the manifest of the training
        set is not there, or the samples do not go over the ranks; the same on every rank.
    """
    with together(topology.world):
        path = _checkpoint(folder, which) if topology.is_root else None
    path = topology.world.bcast(path)
    with together(topology.world):
        saved = checkpoint.read(path, topology.device)
        if saved["version"] == checkpoint.UNSEALED and topology.is_root:
            sys.stderr.write(
                f"hpcsamp: checkpoint {path} was written before files were sealed (format version "
                f"{checkpoint.UNSEALED}): damage to it may go unnoticed\n"
            )
        config = build.of_version(config, saved["version"])
        before = build.of_version(check(saved["config"], "checkpoint"), saved["version"])
        checkpoint.check_config(path, build.table_of(before), build.table_of(config))
        if which in ("last", "best"):
            checkpoint.check_run(path, saved, folder.run)
        trained = read_manifest(config.data.path)
        if saved["dataset"] != trained.uid:
            raise CheckpointError(
                f"checkpoint {path} was trained on dataset {saved['dataset']}, "
                f"{config.data.path} is {trained.uid}; name another set by --data"
            )
        # the split is of no matter: shapes, classes and coordinates are those of the set
        dataset = Dataset(config.data.path, next(iter(trained.splits)), trained)
        method = build.method(config, dataset, topology)
        part = state.part_of_method(saved["method"], method.members)
        if saved["version"] == checkpoint.UNSEALED:  # buffers and frozen parameters as built
            part = method.state_dict() | part
        method.load_state_dict(part)
        method.step = saved["step"]
        samples = method.prediction_samples(samples or config.evaluation.samples)
        if method.members is None:
            share_samples(samples, topology.grid, topology.sample_rank)
        likelihood = build.likelihood(config)
    found = Restored(
        config, topology, method, trained, likelihood, {}, path, saved["step"], samples,
        exchange.choose(topology, "mpi"),  # there is no gradient to exchange
        folder.run,
    )  # fmt: skip
    if isinstance(likelihood, FittedGaussian):
        found.likelihood = _fitted(found)
    if trained.classes is None:
        number = build.DTYPES[config.training.precision]
        kind = torch.int64 if dataset.inputs == "ids" else number
        x = torch.zeros(1, *dataset.x_shape, dtype=kind, device=topology.device)
        y = torch.zeros(1, *dataset.y_shape, dtype=number, device=topology.device)
        found.noise = noise.record(found.likelihood, method, x, y, samples, found.collectives)
    return found


def _fitted(found: Restored) -> FittedGaussian:
    split = "valid" if "valid" in found.trained.splits else "train"
    with together(found.topology.world):
        items = found.open(None, split)
    evaluator = found.evaluator(items)
    try:
        return noise.fit(evaluator, found.method)
    finally:
        evaluator.close()


def _checkpoint(folder: RunFolder, which: str) -> Path:
    if which == "last":
        path = checkpoint.latest(folder.checkpoints)
        if path is None:
            raise CheckpointError(f"{folder.path} has no checkpoint yet")
        return path
    return folder.checkpoints / "best.pt" if which == "best" else Path(which)
