"""The posterior predictive distribution of a finished (or stopped) run, on this grid."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from torch import Tensor

from hpcsamp import collectives as exchange
from hpcsamp.data import Dataset
from hpcsamp.data.manifest import read_manifest
from hpcsamp.errors import DataError
from hpcsamp.grid import Topology, together
from hpcsamp.losses import FittedGaussian, Likelihood
from hpcsamp.methods.laplace import Laplace
from hpcsamp.prediction import noise
from hpcsamp.prediction.schema import as_trained
from hpcsamp.prediction.settling import Passed, settle
from hpcsamp.prediction.statistics import estimate
from hpcsamp.run import recalibration, width
from hpcsamp.run.digest import parameters_sha256
from hpcsamp.run.restore import Restored
from hpcsamp.tasks.outputs import outputs_of, sample_counts
from hpcsamp.tasks.recalibrated import recalibrated

if TYPE_CHECKING:
    from hpcsamp.prediction.evaluator import Evaluator
    from hpcsamp.tasks import Task


class Posterior:
    """A restored run with its task, noise and recalibration. Collective over the world.

    Parameters
    ----------
    restored
        Run with the parameters of a checkpoint.
    topology
        Grid of ranks.
    recalibrate
        Whether to use the recalibration of the run, if there is one.

    Attributes
    ----------
    run, method, config, trained, samples
        Attributes of the restored run.
    task
        Task of the run, with the recalibration if it is used.
    recalibration
        Recalibration of the checkpoint, or None.
    notes
        Lines that report a recalibration which is not used.
    likelihood
        Observation model. A width that is not learnt is estimated once per checkpoint, at the end
        of training or here, with ``evaluation.samples`` of the run.
    noise
        Source of the observation noise, for records; empty for labels.
    passed
        Counter of the passes made for predictions in memory.
    """

    def __init__(self, restored: Restored, topology: Topology, *, recalibrate: bool = True) -> None:
        self.restored = restored
        self.topology = topology
        self.run = restored.run
        self.method = restored.run.method
        self.config = restored.run.config
        self.trained = restored.trained
        self.samples = restored.samples
        self.passed = Passed()
        self.collectives = exchange.choose(topology, "mpi")  # there is no gradient to exchange
        self.likelihood: Likelihood = self.run.likelihood
        if noise.is_open(self.likelihood):
            self.likelihood = self._fitted()
        self._record_noise()
        self.recalibration = self._recalibration() if recalibrate else None
        self._recalibrate()

    def _record_noise(self) -> None:
        self.noise = {} if self.run.task.labels else self._noise()

    def with_samples(self, samples: int | None) -> Self:
        """Return the same posterior with another number of samples of the predictive distribution.

        Collective over the world.

        Parameters
        ----------
        samples
            Number of samples; None to leave it unchanged.

        Raises
        ------
        UsageError
            If the method cannot draw this number of samples.
        """
        wanted = self.samples if samples is None else self.method.prediction_samples(samples)
        if wanted == self.samples:
            return self
        other = copy.copy(self)
        other.samples = wanted
        other._record_noise()
        other._recalibrate()
        return other

    def facts(self) -> dict[str, Any]:
        """Facts recorded with every result: run, checkpoint, step, samples, method and noise."""
        return {
            "run": self.restored.folder.run,
            "checkpoint": self.restored.checkpoint.name,
            "step": self.restored.step,
            "samples": self.samples,
            "method": self.config.method.name,
            "temperature": self.config.loss.temperature,
            **({"laplace": self._facts_of_laplace()} if isinstance(self.method, Laplace) else {}),
            **({"noise": self.noise} if self.noise else {}),
            **({"recalibration": self._facts_of_recalibration()} if self.recalibration else {}),
        }

    def open(
        self, data: str | Path | None, split: str | None, inputs_only: bool = False
    ) -> Dataset:
        """Open a split of a dataset and check that it fits the run. Not collective.

        ``data`` is None for the dataset of the run. The default split is ``test``, or the first one
        if there is no ``test``.

        Raises
        ------
        DataError
            If the dataset has no split of this name, or its names, units or coordinates are not
            those of the training set.
        """
        path = Path(data if data is not None else self.config.data.path)
        if split is None:
            splits = read_manifest(path).splits
            split = "test" if "test" in splits else next(iter(splits))
        opened = Dataset.open(path, split)
        if data is None and opened.uid != self.trained.manifest.uid:
            train = "set data.path to its training set"
            how = train if split == "train" else "choose another dataset with --data"
            raise DataError(
                f"{path} is dataset {opened.uid}, but the run was trained on "
                f"{self.trained.manifest.uid}; {how}"
            )
        return as_trained(opened, self.trained, inputs_only=inputs_only)

    def notes_on(self, dataset: Dataset) -> list[str]:
        """Return warnings about the use of the recalibration for a split."""
        of = self.recalibration.dataset if self.recalibration is not None else {}
        if not self.notes and of and (of["uid"], of["split"]) == (dataset.uid, dataset.split):
            return [
                f"the recalibration was fitted to the split {dataset.split}: its metrics on these "
                f"items are better than those on new ones"
            ]
        return self.notes

    def evaluator(self, dataset: Dataset, task: Task | None = None) -> Evaluator:
        """Create an evaluator of a split, with :attr:`task` by default. Collective."""
        from hpcsamp.prediction.evaluator import Evaluator

        return Evaluator(
            self.run, dataset, self.topology, self.collectives, self.likelihood,
            samples=self.samples, training_set=self.training_set,
            task=self.task if task is None else task,
        )  # fmt: skip

    def places(self) -> list[range]:
        """Indices of this rank's samples in the order of its outputs, as consecutive ranges."""
        group = self.collectives
        return [self.method.prediction_share(self.samples, group.sample_size, group.sample_rank)]

    def counts(self) -> list[int]:
        """Number of samples on each rank of the sample group. Collective over it."""
        return sample_counts(self.method, self.samples, self.collectives)

    def estimate(self, x: Any) -> None:
        """Estimate running statistics, see :func:`.statistics.estimate`. Collective."""
        of = self.run, self.method, self.topology, self.collectives, self.samples
        estimate(*of, x, self.training_set)

    def settle(self, x: Any, index: Tensor) -> None:
        """Choose how samples are evaluated, see :func:`.settling.settle`. Collective."""
        [mine] = self.places()
        settle(self.method, x, mine, index, self.topology.world)

    def outputs(self, batches: Sequence[tuple[Any, Tensor]]) -> Tensor:
        """Evaluate this rank's samples on several batches; see :func:`.outputs_of`."""
        return outputs_of(self.method, batches, self.samples, self.collectives)

    def training_set(self) -> Dataset:
        """Open the training set of the run; see :meth:`open`. Not collective."""
        return self.open(None, "train")

    def parameters(self) -> str:
        """Hash of the parameters; the probit approximation is named with it. Collective."""
        probit = isinstance(self.method, Laplace) and self.method.probit
        return parameters_sha256(self.method, self.topology) + (" probit" if probit else "")

    def _fitted(self) -> Likelihood:
        folder, step, world = self.restored.folder, self.restored.step, self.topology.world
        own = self.restored.checkpoint.resolve().parent == folder.checkpoints.resolve()
        model, known, asked = self.run.likelihood, None, None
        with together(world):
            if self.topology.is_root:
                kept = width.read(folder, step) if own else {}
                same = kept.keys() == noise.open_widths(model).keys()
                known = {n: (of.std, of.source) for n, of in kept.items()} if same else None
                asked = folder.config().evaluation.samples
        known, asked = world.bcast((known, asked))
        if known is not None:
            return noise.with_widths(model, {n: FittedGaussian(*of) for n, of in known.items()})
        with together(world):
            items = self.open(None, noise.split_of(self.trained.manifest))
            samples = self.method.prediction_samples(asked)
        found = noise.fit_on(self.run, items, self.topology, self.collectives, samples)
        if own and self.topology.is_root:
            with suppress(OSError):  # in a read-only folder it is estimated again next time
                width.keep(folder, step, noise.open_widths(found))
        return found

    def _recalibration(self) -> recalibration.Entry | None:
        """Read the recalibration of the checkpoint, if the checkpoint lies in the run folder."""
        folder, step, world = self.restored.folder, self.restored.step, self.topology.world
        own = self.restored.checkpoint.resolve().parent == folder.checkpoints.resolve()
        found = None
        with together(world):
            if self.topology.is_root and own:
                found = recalibration.read(folder, step)
        found = world.bcast(found)
        self._parameters = "" if found is None else self.parameters()
        return found

    def _recalibrate(self) -> None:
        """Choose the task: with the recalibration if it was fitted for these predictions."""
        found = self.recalibration
        self.task, self.notes = self.run.task, []
        if found is not None:
            unused = found.unused(self._parameters, self.samples)
            self.notes = [] if unused is None else [unused]
            if unused is None:
                self.task = recalibrated(self.run.task, found.targets)

    def _facts_of_laplace(self) -> dict[str, Any]:
        assert isinstance(self.method, Laplace)
        return {
            "kind": self.method.kind,
            "layers": self.method.layers,
            "prior_precision": self.method.precision,
            "predictive": "probit" if self.method.probit else "samples",
        }

    def _facts_of_recalibration(self) -> dict[str, Any]:
        found = self.recalibration
        assert found is not None
        if self.notes:
            return {"used": self.notes[0]}
        each = {name: of.facts() for name, of in found.targets.items()}
        return {
            "used": "yes",
            **{k: found.dataset[k] for k in ("uid", "split")},
            **(each["y"] if list(each) == ["y"] else each),
        }

    def _noise(self) -> dict[str, Any]:
        shapes, device = self.run.shapes, self.topology.device
        x = shapes.batch(1, dtype=self.run.dtype, device=device)
        return noise.record(
            self.likelihood, self.method, x, shapes.targets, self.samples, self.collectives
        )
