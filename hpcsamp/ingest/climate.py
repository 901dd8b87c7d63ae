"""Climatology of the training split, computed while its items are written."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from hpcsamp.data.climatology import TERMS, ClimatologySums
from hpcsamp.data.times import parse_times
from hpcsamp.ingest.source import Source

MOST = 2**31
"""Largest number of bytes of the sums; those of larger fields are computed for the first scores."""


def climate_sums(source: Source) -> ClimatologySums | None:
    """Return empty sums for the targets of a source; None if they are not fields in time."""
    spec, time = source.arrays.get("y"), source.coords.get("time")
    if spec is None or source.targets or source.classes is not None or source.after is None:
        return None
    on = {name for name, c in source.coords.items() if c.axis is not None and "y" in c.arrays}
    if time is None or time.axis is not None or not {"latitude", "longitude"} <= on:
        return None
    values = int(np.prod(spec.shape))
    return ClimatologySums(tuple(spec.shape)) if 8 * (len(TERMS) + 2) * values <= MOST else None


def add_climate(sums: ClimatologySums, source: Source, block: Mapping[str, np.ndarray]) -> None:
    """Add the targets of items at the times for which they are valid."""
    assert source.after is not None
    times = parse_times(np.asarray(block["time"]), source.coords["time"].units)
    sums.add(times + source.after, block["y"])


def variables_of(source: Source) -> list[str]:
    """Names of the variables of the targets."""
    named = (c for c in source.coords.values() if c.axis == 0 and "y" in c.arrays)
    values = next((c.values for c in named if len(c.values)), source.arrays["y"].names)
    return [str(name) for name in values]
