"""Supply a training run with batches of the train split, with augmentation."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

from hpcsamp.data import Batch, Dataset, Loader
from hpcsamp.data.augment import Augmentation, image_of
from hpcsamp.data.following import Follows
from hpcsamp.data.parts import Given, parts_of
from hpcsamp.grid import Topology, together
from hpcsamp.run.assemble import Run
from hpcsamp.training.rollout import TrainingRollout
from hpcsamp.watchdog import here
from hpcsamp.weights import inputs_of


class TrainingFeed:
    """The batches of a run. All methods but :meth:`augmented` are collective over the world.

    Parameters
    ----------
    run
        Run whose configuration (``data`` and ``augment``) defines the batches.
    dataset
        The train split.
    topology
        Grid of ranks.

    Attributes
    ----------
    steps_per_epoch
        Number of batches per epoch.
    rollout
        The rollout of the run; None if it has one step.
    """

    def __init__(self, run: Run, dataset: Dataset, topology: Topology) -> None:
        c, part = run.config, _part(run)
        self.run = run
        self.dataset = dataset
        with together(topology.world):
            parts = parts_of(part, dataset)
            self._augmentation = Augmentation.of(
                c.augment, dataset, topology, seed=c.seed, parts=parts
            )
            self._augmented = image_of(c.augment, dataset) if c.augment.active else None
            self.rollout = TrainingRollout.of(run, dataset, topology)
        self._open = partial(
            Loader,
            dataset,
            topology,
            batch=c.data.batch,
            seed=c.seed,
            shuffle=c.data.shuffle,
            reader=c.data.reader,
            verify=c.data.verify,
            slots=c.data.slots,
            dtype=run.dtype,
            part=part,
        )
        self._steps = 1 if self.rollout is None else self.rollout.steps(0)
        self._loader = self._open(follows=self._follows)
        self.steps_per_epoch = self._loader.steps_per_epoch

    @property
    def _follows(self) -> Follows | None:
        return None if self.rollout is None else self.rollout.read(self._steps)

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch, beginning with step ``start``."""
        steps = 1 if self.rollout is None else self.rollout.steps(epoch)
        if steps != self._steps:  # other rows are read for each item
            self._loader.close()
            self._steps = steps
            self._loader = self._open(follows=self._follows)
        read = self._loader.epoch(epoch, start)
        while True:
            with here.part("feed"):
                batch = next(read, None)
            if batch is None:
                return
            yield batch if self.rollout is None else self.rollout.batch(batch, steps)

    def augmented(self, epoch: int, batch: Batch) -> tuple[Tensor, bool, Any]:
        """Return inputs, whether they have a sample axis, and the map of outputs to targets."""
        if self._augmentation is None:
            return inputs_of(batch.x), False, None
        stacked, own = self.run.config.augment.share != "all", self.run.own
        with here.part("augment"):
            x = batch.x if self._augmented is None else batch.x[self._augmented]
            x = self._augmentation(x, batch.index, epoch=epoch, samples=own)
        if self._augmented is not None:  # other augmentations are the same for all samples
            others = {n: t.expand(len(own), *t.shape) if stacked else t for n, t in batch.x.items()}
            x = inputs_of(others | {self._augmented: x}, stacked)
        undo = None
        several = self.dataset.has_several_targets
        if self._augmentation.shift and not several and len(self.dataset.y_shape) > 1:
            undo = partial(self._undo, epoch, batch.index)
        return x, stacked, undo

    def _undo(
        self,
        epoch: int,
        index: np.ndarray,
        outputs: Tensor,
        samples: range,
        items: slice = slice(None),
    ) -> Tensor:
        assert self._augmentation is not None
        width = self.dataset.y_shape[-1]
        return self._augmentation.undo(
            outputs, index[items], epoch=epoch, samples=samples, width=width
        )

    def close(self) -> None:
        """Close the files and free the shared memory. Collective."""
        self._loader.close()


def _part(run: Run) -> Given | None:
    """The part of every item on this rank; None for whole items."""
    spread = run.method.spread
    if spread is None:
        return None
    # outputs are gathered if the loss does not accept parts of them
    return {"x": spread.inputs, "y": spread.values if run.data_loss.takes_parts else None}
