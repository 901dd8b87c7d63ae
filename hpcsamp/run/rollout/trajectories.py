"""The items that follow each item of a split in time, for training by rollout."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from hpcsamp.data import Dataset
from hpcsamp.data.following import Follows
from hpcsamp.errors import UsageError
from hpcsamp.losses import Likelihood
from hpcsamp.run.rollout.channels import Channels, Scale, channels_of
from hpcsamp.run.rollout.clock import clock_of
from hpcsamp.run.trained import Trained
from hpcsamp.tasks.coordinates import read_coordinates
from hpcsamp.tasks.units import Units, units_of
from hpcsamp.weights.rolling import Rolling

KEY = "training.rollout"


class Trajectories:
    """States and inputs at the next lead times of each item of a split.

    An item whose later states are not in the split has those lead times that are.

    Parameters
    ----------
    dataset
        The split.
    steps
        Largest number of steps.
    device
        Device of the batches.

    Attributes
    ----------
    channels
        Input and output channels of the network.
    follows
        ``(N, steps)`` item whose input is ``0 .. steps - 1`` steps later; the item itself where
        there is none.
    known
        ``(N, steps)`` whether there is one, and all earlier ones.

    Raises
    ------
    UsageError
        If outputs are not inputs, times are unknown, or no item has so many later states.
    """

    def __init__(self, dataset: Dataset, steps: int, device: torch.device) -> None:
        asked = f"{KEY} = {steps}"
        trained = Trained.of(dataset.path, dataset.manifest)
        self.channels: Channels = channels_of(trained, asked)
        self.scale = Scale.of(trained, device)
        coordinates = read_coordinates(dataset)
        self.units: Units = units_of(dataset, coordinates)
        self.clock = clock_of(dataset.manifest, coordinates.per_item)
        if not self.clock.known:
            lacks = "times of its items" if self.clock.times is None else "the length of a step"
            raise UsageError(f"{asked}: {dataset.path} does not state {lacks}")
        later = np.stack([self.clock.item_at(lead) for lead in range(steps)], 1)
        self.known = np.logical_and.accumulate(later >= 0, axis=1)
        longest = int(self.known.sum(1).max())
        if longest < steps:
            assert self.clock.step is not None
            hours = self.clock.step / np.timedelta64(1, "h")
            raise UsageError(
                f"{asked}: no item of {dataset.split} in {dataset.path} is followed by "
                f"{steps - 1} later ones, each {hours:g} h after the "
                f"other; the longest sequence allows {longest} steps; splits in the order of time "
                f"keep items together"
            )
        own = np.arange(dataset.count)[:, None]
        self.follows = np.where(self.known, later, own)

    def read(self, steps: int) -> Follows:
        """Return the items to read for each item: targets, and inputs if they have forcings."""
        read = self.follows[:, :steps]
        return {"y": read, "x": read} if len(self.channels.forcings) else {"y": read}

    def forced(self, index: np.ndarray, x: Tensor, steps: int) -> Tensor:
        """Return the channels of later inputs that are known, ``(B, steps - 1, F, ...)``.

        Parameters
        ----------
        x
            ``(B, m, C, ...)`` standardised inputs of the items that :meth:`read` returns.
        """
        own, found = self.channels, x[:, 1:, self.channels.forcings]
        if not len(own.forcings):
            found = x.new_empty(len(x), steps - 1, 0, *x.shape[3:])
        if len(own.clock):
            values = np.stack([own.features(self.clock.at(index, k)) for k in range(1, steps)], 1)
            scaled = self.scale.standardise(torch.as_tensor(values, device=x.device), own.clock)
            found = torch.cat([scaled.to(x.dtype), found], 2)
        return found

    def rolling(self, likelihood: Likelihood, shape: tuple[int, ...]) -> Rolling:
        """Return the function from outputs and known channels to the next input.

        Parameters
        ----------
        likelihood
            Observation model; the predicted state is its mean.
        shape
            Shape of a target.
        """
        own, scale = self.channels, self.scale
        order = np.arange(len(own.names))
        order[own.state] = len(order) + np.arange(len(own.state))
        forced = np.concatenate([own.clock, own.forcings]).astype(int)
        order[forced] = len(own.names) + len(own.state) + np.arange(len(forced))
        rows = (-1, *[1] * (len(shape) - 1))
        to, by = scale.mean[own.state].view(rows), scale.std[own.state].view(rows)
        factor = torch.as_tensor(self.units.scale, device=by.device).view(rows) / by
        shift = (torch.as_tensor(self.units.shift, device=by.device).view(rows) - to) / by

        def state(outputs: Tensor) -> Tensor:
            mean, _ = likelihood.moments(outputs[None], outputs.new_zeros(len(outputs), *shape))
            return mean[0] * factor.to(mean.dtype) + shift.to(mean.dtype)

        return Rolling(state, torch.as_tensor(order, device=by.device))
