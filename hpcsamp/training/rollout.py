"""Training by rollout: batches with the states of several lead times, and their weights."""

from __future__ import annotations

from dataclasses import replace
from typing import Self

import torch

from hpcsamp.config import RunConfig
from hpcsamp.data import Batch, Dataset
from hpcsamp.data.following import Follows
from hpcsamp.errors import UsageError
from hpcsamp.grid import Topology
from hpcsamp.methods.item_noise import ItemNoise
from hpcsamp.run.assemble import Run
from hpcsamp.run.rollout.trajectories import KEY, Trajectories
from hpcsamp.weights.rolling import FORCED, START


class TrainingRollout:
    """The rollout of a run: in each pass its network is applied to its own outputs.

    The loss of an item is ``sum_k w_k loss_k / sum_k w_k`` over its lead times, with the gradient
    through all steps; lead times whose state is not in the split add nothing. All steps of a pass
    have the same weight samples and dropout masks.

    Parameters
    ----------
    run
        The run, whose method evaluates rollouts from now on.
    trajectories
        The later states of each item.
    """

    def __init__(self, run: Run, trajectories: Trajectories) -> None:
        self.training, self.trajectories = run.config.training, trajectories
        rolling = trajectories.rolling(run.likelihood, tuple(run.shapes.targets.shape))
        for caller in run.method.callers:
            caller.rolling = rolling
        self._known = torch.as_tensor(trajectories.known)

    @classmethod
    def of(cls, run: Run, dataset: Dataset, topology: Topology) -> Self | None:
        """Return the rollout of a run; None if it has one step.

        Raises
        ------
        UsageError
            If the settings of the run do not support it, or the split has no later states.
        """
        steps = run.config.training.longest_rollout
        if steps == 1:
            return None
        fault = _fault(run, run.config)
        if fault:
            raise UsageError(f"{KEY} = {steps} cannot be combined with {fault}")
        return cls(run, Trajectories(dataset, steps, topology.device))

    def steps(self, epoch: int) -> int:
        """Number of steps in an epoch."""
        return self.training.rollout_at(epoch)

    def read(self, steps: int) -> Follows:
        """See :meth:`.Trajectories.read`; one step needs no other items."""
        return self.trajectories.read(steps) if steps > 1 else {}

    def batch(self, batch: Batch, steps: int) -> Batch:
        """Return a batch with the inputs and targets of all steps."""
        if steps == 1:
            return batch
        items = len(batch)
        x = batch.x.unflatten(0, (items, -1))
        given = self.training.lead_weights[:steps] or [1.0] * steps
        weights = torch.tensor(given, dtype=torch.float64)
        known = self._known[torch.from_numpy(batch.index), :steps]
        leads = known * (weights / weights.sum())
        return replace(
            batch,
            x={START: x[:, 0], FORCED: self.trajectories.forced(batch.index, x, steps)},
            y=batch.y.unflatten(0, (items, steps)),
            mask=None if batch.mask is None else batch.mask.unflatten(0, (items, steps)),
            leads=leads.to(batch.device, batch.weight.dtype),
        )

    def describe(self) -> str:
        """Describe the curriculum, and how many items have all lead times, in one line."""
        given, most = self.training.rollout, self.training.longest_rollout
        phases = [(given, self.training.epochs)] if isinstance(given, int) else given
        whole = int(self.trajectories.known.all(1).sum())
        return (
            f"rollout: {', '.join(f'{k} steps for {n} epochs' for k, n in phases)}; {whole:,} of "
            f"{len(self._known):,} items have all {most} lead times"
        )


def _fault(run: Run, config: RunConfig) -> str:
    """Name the setting that excludes a rollout; empty if there is none."""
    if isinstance(run.method, ItemNoise):
        return f'method.name = "{config.method.name}", whose noise differs between applications'
    found = {
        "parallel.model > 1": run.method.spread is not None,
        "training.graphs": config.training.graphs is True,
        "training.compile": config.training.compile,
        "augment": config.augment.active,
    }
    return next((name for name, on in found.items() if on), "")
