"""Views: the targets, likelihood, samples and units with which a task evaluates a split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from hpcsamp.collectives import Collectives
from hpcsamp.data import Dataset
from hpcsamp.losses import Likelihood, Likelihoods
from hpcsamp.tasks.coordinates import Coordinates
from hpcsamp.tasks.targets import Targets
from hpcsamp.tasks.units import NO_UNITS, Units, units_of

if TYPE_CHECKING:
    from hpcsamp.methods import Method
    from hpcsamp.weights import Caller


@dataclass(frozen=True)
class View:
    """Targets, likelihood, samples and units with which a task predicts and evaluates a split.

    Attributes
    ----------
    targets
        Targets that are predicted.
    likelihood
        Observation model, which interprets the outputs.
    samples
        Number of samples, ``S``, of the predictive distribution.
    counts
        Number of samples on each rank of the sample group.
    group
        Collectives of the sample group.
    units, coordinates
        Units and coordinates of the targets.
    weights
        Weights of the values of a target by the area of grid cells; None for equal weights.
    bins
        Number of bins of calibration metrics.
    dataset
        The split that is evaluated; None if there are no targets.
    target
        Name of the target in the set.
    parts
        For several targets, the view of each by its name.
    method
        Method or network caller whose ``outputs`` define how the outputs of several targets are
        packed into one tensor.
    """

    targets: Targets
    likelihood: Likelihood
    samples: int
    counts: Sequence[int]
    group: Collectives
    units: Units
    coordinates: Coordinates
    weights: Tensor | None = None
    bins: int = 15
    dataset: Dataset | None = None
    target: str = "y"
    parts: Mapping[str, View] = field(default_factory=dict)
    method: Method | Caller | None = None

    def names(self, array: str) -> list[str]:
        """Return the names of an array in a predictions file, one for each target."""
        return [f"{name}_{array}" for name in self.parts] or [array]

    def of_items(self, index: np.ndarray) -> View:
        """Return the view of some items, whose units may be those of their series."""
        if self.units.series is None:
            return self
        return replace(self, units=self.units.of_items(index))

    def blank(self, outputs: Tensor) -> Any:
        """Return zeros with the shape and type of targets, for outputs ``(s, B, ...)``.

        For several targets it is a dictionary by name.
        """
        if self.parts:
            return {name: part.blank(outputs) for name, part in self.parts.items()}
        kind = torch.float32 if outputs.dtype in (torch.bfloat16, torch.float16) else outputs.dtype
        return torch.zeros(
            outputs.shape[1],
            *self.targets.shape,
            dtype=kind if self.targets.classes is None else torch.int64,
            device=outputs.device,
        )


def view_of(
    method: Method | Caller,
    targets: Targets,
    likelihood: Likelihood,
    dataset: Dataset,
    coordinates: Mapping[str, Coordinates],
    samples: int,
    counts: Sequence[int],
    group: Collectives,
    *,
    bins: int = 15,
    measured: bool = False,
) -> View:
    """Build the view of a split.

    Parameters
    ----------
    method
        Method or network caller that evaluates the network.
    coordinates
        Coordinates of each target by its name, ``y`` for a single target; not needed for targets
        that are not in the dataset.
    measured
        Whether the targets are known, so that predictions can be compared with them.
    """

    def one(name: str, of: Targets, model: Likelihood) -> View:
        at = coordinates.get(name, Coordinates([]))
        area = at.area_weights()
        units = units_of(dataset, at, name) if name in dataset.targets else NO_UNITS
        return View(
            of, model, samples, counts, group, units, at,
            None if area is None else torch.as_tensor(area), bins,
            dataset if measured else None, name,
        )  # fmt: skip

    if not isinstance(likelihood, Likelihoods):
        return one("y", targets, likelihood)
    parts = {name: one(name, of, likelihood.each[name]) for name, of in targets.parts.items()}
    first = next(iter(parts.values()))
    at = replace(first.coordinates, axes=[])
    return replace(
        first, targets=targets, likelihood=likelihood, coordinates=at, weights=None, target="",
        parts=parts, method=method,
    )  # fmt: skip
