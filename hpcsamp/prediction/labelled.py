"""Predictions as an ``xarray.Dataset``: dimensions, coordinates, units and provenance."""

from __future__ import annotations

from typing import Any

import xarray as xr

from hpcsamp.prediction.given import Given
from hpcsamp.prediction.in_memory import Predicted
from hpcsamp.tasks.items import ITEM


def labelled(found: Predicted, given: Given | None) -> xr.Dataset:
    """Return predictions as a labelled dataset.

    Parameters
    ----------
    given
        Items that were predicted; None for a split of a dataset.
    """
    layout = found.layout
    coordinates: dict[str, Any] = {}
    for name, scale in layout.scales.items():
        dim = "item" if name == ITEM else name
        coordinates[dim] = (dim, scale.values, scale.facts)
    if given is not None and given.labels is not None:
        coordinates["item"] = ("item", given.labels, {})
    arrays: dict[str, Any] = {}
    for name, variable in layout.variables.items():
        dims = ["item" if d == ITEM else d for d in variable.dims]
        values = found.values[name] if variable.values is None else variable.values
        arrays[name] = (dims, values, variable.facts)
    made = xr.Dataset(arrays, coordinates, layout.attributes)
    if given is not None and given.single:
        made = made.isel(item=0, drop=True)
    return made
