"""Climatology of a training set, which its ingest has written or the first scores compute."""

from __future__ import annotations

from contextlib import suppress

import numpy as np

from hpcsamp.data.climatology import (
    Climatology,
    ClimatologySums,
    read_climatology,
    write_climatology,
)
from hpcsamp.grid import share, together
from hpcsamp.prediction.posterior import Posterior
from hpcsamp.prediction.rollout.reading import read_items
from hpcsamp.run.rollout.clock import clock_of
from hpcsamp.tasks.coordinates import read_coordinates
from hpcsamp.tasks.units import Units


def climatology(posterior: Posterior, units: Units, variables: list[str]) -> Climatology:
    """Return the climatology of the training targets in the units of the data. Collective.

    If the dataset has none, it is computed in one pass that the ranks share, and kept in the
    dataset folder if that is writable.

    Raises
    ------
    DataError
        If the file of the dataset is damaged, or of other years or variables; on every rank.
    """
    world, root = posterior.topology.world, posterior.topology.is_root
    with together(world):
        dataset = posterior.training_set()
        found = read_climatology(dataset.path, dataset.uid, variables) if root else None
    found = world.bcast(found)
    if found is not None:
        return found
    sums = ClimatologySums(dataset.y_shape)
    with together(world), dataset:
        clock = clock_of(dataset.manifest, read_coordinates(dataset).per_item)
        for item in share(dataset.count, world.size, world.rank):
            y = units.value(read_items(posterior, dataset, [item]).y).cpu().numpy()
            sums.add(clock.at(np.array([item]), 1) if clock.known else None, y)
    parts = world.gather(sums)
    if parts is not None:  # on the root
        for part in parts[1:]:
            sums.merge(part)
        found = sums.solve()
        with suppress(OSError):
            write_climatology(dataset.path, found, dataset.uid, variables, sums.span)
    found = world.bcast(found)
    assert found is not None
    return found
