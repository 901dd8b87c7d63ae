"""Climatology of a training set: mean and standard deviation of each variable at each point."""

from __future__ import annotations

from contextlib import suppress

import h5py
import numpy as np

from hpcsamp.files import whole
from hpcsamp.grid import share, together
from hpcsamp.prediction.posterior import Posterior
from hpcsamp.prediction.rollout.reading import read_items
from hpcsamp.tasks.units import Units

NAME = "climatology.h5"


def climatology(posterior: Posterior, units: Units) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation over the targets of the training split. Collective.

    They are computed once, in one pass that the ranks share, and kept in the dataset folder if it
    is writable; a file written for another dataset is not used.

    Returns
    -------
    mean, std
        ``(V, H, W)`` float64 in the units of the data; NaN where no target is observed.
    """
    world, found = posterior.topology.world, None
    with together(world):
        dataset = posterior.training_set()
        path = dataset.path / NAME
        if posterior.topology.is_root and path.is_file():
            with suppress(OSError, KeyError), h5py.File(path, "r", locking=False) as f:
                if f.attrs["dataset_uid"] == dataset.uid:
                    # files without counts are older, and NaN where any target is missing
                    found = (f["mean"][:], f["std"][:]) if "count" in f else None
    found = world.bcast(found)
    if found is not None:
        return found
    sums = np.zeros((3, *dataset.y_shape))
    with together(world), dataset:
        for item in share(dataset.count, world.size, world.rank):
            # standardised values are near 0, so sums of squares keep their digits
            y = read_items(posterior, dataset, [item]).y[0].double().cpu().numpy()
            known = np.isfinite(y)
            y = np.where(known, y, 0.0)
            sums += np.stack([y, y**2, known])
    *sums, count = world.allreduce(sums)
    with np.errstate(invalid="ignore"):
        first, second = (total / count for total in sums)
    shape = (-1, *[1] * (len(dataset.y_shape) - 1))
    scale, shift = units.scale.reshape(shape), units.shift.reshape(shape)
    mean = first * scale + shift
    std = np.sqrt(np.maximum(second - first**2, 0)) * scale
    if posterior.topology.is_root:
        with suppress(OSError), whole(path) as part, h5py.File(part, "w") as f:
            f["mean"], f["std"], f["count"] = mean, std, count
            f.attrs["dataset_uid"] = dataset.uid
    return mean, std
