"""The view of a split's targets, of one or of several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from hpcsamp.collectives import Collectives
from hpcsamp.data import Dataset
from hpcsamp.losses import Likelihood, Likelihoods
from hpcsamp.tasks.base import Targets, View
from hpcsamp.tasks.coordinates import Coordinates
from hpcsamp.tasks.units import NO_UNITS, units_of

if TYPE_CHECKING:
    from hpcsamp.methods import Method
    from hpcsamp.weights import Caller


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
