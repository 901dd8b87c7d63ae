"""Determine how each input channel of a network is computed for the next step of a rollout."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hpcsamp.errors import UsageError
from hpcsamp.ingest.fields import FEATURES, MASKS, features
from hpcsamp.run.trained import Trained
from hpcsamp.tasks.coordinates import Axis


@dataclass(frozen=True)
class Channels:
    """The input and output channels, and how the next input is computed from an output.

    Attributes
    ----------
    variables
        Names of the ``V`` predicted variables, in the order of the outputs.
    state
        ``(V,)`` position of each variable among the input channels.
    clock
        Positions of the four features of time of day and year, or an empty array.
    forcings
        Positions of input channels that are neither predicted, nor constant, nor a function of
        time: they are read from the dataset.
    names
        Names of all input channels.
    axes
        Axes of the grid points.
    """

    variables: tuple[str, ...]
    state: np.ndarray
    clock: np.ndarray
    forcings: np.ndarray
    names: tuple[str, ...]
    axes: list[Axis]

    def features(self, times: np.ndarray) -> np.ndarray:
        """Return the features of time for items, float64 ``(B, 4, latitudes, longitudes)``."""
        known = {a.name: a.values for a in self.axes}
        latitude, longitude = known["latitude"], known["longitude"]
        return np.stack([features(latitude, longitude, t) for t in times])


def channels_of(trained: Trained, asked: str = "--rollout") -> Channels:
    """Match the output variables of a run with its input channels.

    Parameters
    ----------
    asked
        The option or key that asks for a rollout, for messages.

    Raises
    ------
    UsageError
        If the outputs are not among the variables of the input, or are on another grid.
    """
    if set(trained.manifest.kinds) != {"x"} or set(trained.manifest.targets_by_name) != {"y"}:
        raise UsageError(f"{asked} needs one input and one target, both of them fields")
    inputs, outputs = trained.axes["x"], trained.axes["y"]
    if not inputs or not outputs or not inputs[0].named or not outputs[0].named:
        raise UsageError(
            f"{asked} needs names of the input and output channels, which the dataset of this run "
            f"does not have: its outputs cannot be matched with its inputs"
        )
    names, variables = _names(inputs[0]), _names(outputs[0])
    lacking = [name for name in variables if name not in names]
    if lacking:
        raise UsageError(
            f"{asked}: the output {lacking[0]!r} is not a variable of the input ({len(lacking)} "
            f"of {len(variables)} outputs are not), so the next step has no input"
        )
    shapes = [tuple(len(a.values) for a in axes[1:]) for axes in (inputs, outputs)]
    if shapes[0] != shapes[1]:
        raise UsageError(
            f"{asked}: the input is on {shapes[0]} points, the output on {shapes[1]}; they must "
            f"be the same"
        )
    at = {name: i for i, name in enumerate(names)}
    clock = [at[name] for name in FEATURES] if set(FEATURES) <= set(names) else []
    known = {*variables, *MASKS, *(names[i] for i in clock)}
    return Channels(
        variables,
        np.asarray([at[name] for name in variables]),
        np.asarray(clock, int),
        np.asarray([i for i, name in enumerate(names) if name not in known], int),
        names,
        outputs[1:],
    )


def _names(axis: Axis) -> tuple[str, ...]:
    return tuple(str(name) for name in axis.values)


@dataclass(frozen=True)
class Scale:
    """Mean and standard deviation by which each input channel is standardised."""

    mean: Tensor
    std: Tensor

    @classmethod
    def of(cls, trained: Trained, device: torch.device) -> Scale:
        """Return the statistics of the inputs; 0 and 1 if they are not standardised."""
        count = trained.manifest.arrays["x"].shape[0]
        stats = trained.manifest.stats.get("x")
        mean, std = np.zeros(count), np.ones(count)
        if stats is not None and trained.manifest.kinds["x"] == "numbers":
            mean, std = (np.broadcast_to(np.asarray(v), (count,)) for v in (stats.mean, stats.std))
        std = np.where(std > 0, std, 1.0)
        shaped = (torch.as_tensor(v.reshape(-1, 1, 1), device=device) for v in (mean.copy(), std))
        return cls(*shaped)

    def standardise(self, values: Tensor, at: np.ndarray) -> Tensor:
        """Standardise values ``(..., len(at), H, W)`` of some channels, float64."""
        return (values.double() - self.mean[at]) / self.std[at]
