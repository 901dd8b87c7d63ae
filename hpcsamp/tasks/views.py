"""The view of a split's targets, of one or of several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

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
    """Whose predictions are made, by whom, and in which units they are told.

    Attributes
    ----------
    targets
        What is predicted.
    likelihood
        The observation model: what outputs mean.
    samples
        ``S`` of the predictive distribution.
    counts
        Samples of each rank of the sample group.
    group
        Exchange with the other ranks of the sample group.
    units, coordinates
        Of the targets.
    weights
        Of the values of a target, by the area of grid cells; None for equal ones.
    bins
        Of calibration metrics.
    dataset
        The split that is evaluated; None where there are no targets.
    target
        Name of the target in the set.
    parts
        Of several targets, the view of each by its name.
    method
        Whose ``outputs`` say how those of several targets lie in one tensor: a method, or what
        calls a network.
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
        """What an array of each target is called in files of predictions."""
        return [f"{name}_{array}" for name in self.parts] or [array]

    def blank(self, outputs: Tensor) -> Any:
        """Targets of the shape and type of true ones, for outputs ``(s, B, ...)``: zeros.

        A dictionary by name, if there are several.
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
    """Whose predictions are made, by whom, and in which units.

    Parameters
    ----------
    method
        What evaluates the network.
    coordinates
        Of each target by its name; ``y`` for a single one. Those that the set does not have, as it
        is another one, have none.
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
