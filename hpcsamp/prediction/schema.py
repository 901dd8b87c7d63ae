"""Another dataset for a trained network: does it fit, and in which units does it come?"""

from __future__ import annotations

import numpy as np

from hpcsamp.data import Dataset
from hpcsamp.data.manifest import Manifest
from hpcsamp.errors import DataError


def as_trained(dataset: Dataset, trained: Manifest, *, inputs_only: bool = False) -> Dataset:
    """A dataset as the network saw its own: standardised by the statistics of *its* training set.

    Parameters
    ----------
    dataset
        An opened split of any set; it is changed.
    trained
        Manifest of the set that the network was trained on.
    inputs_only
        Whether targets may be of another kind (out-of-distribution items).

    Returns
    -------
    Dataset
        The same one.

    Raises
    ------
    DataError
        If shape, type or task differ, with both.
    """
    told = dataset.manifest
    if told.uid == trained.uid:
        return dataset
    for name in ("x",) if inputs_only else ("x", "y"):
        ours, theirs = trained.arrays[name], told.arrays[name]
        if ours.shape != theirs.shape:
            raise DataError(
                f"{dataset.path}: {name} of an item has shape {tuple(theirs.shape)}, the run was "
                f"trained on {tuple(ours.shape)}"
            )
        kinds = [_kind(a.dtype) for a in (theirs, ours)]
        if kinds[0] != kinds[1]:
            raise DataError(
                f"{dataset.path}: {name} is {np.dtype(theirs.dtype).name}, the run was trained on "
                f"{np.dtype(ours.dtype).name}"
            )
    if not inputs_only and (told.task, told.classes) != (trained.task, trained.classes):
        raise DataError(f"{dataset.path}: {_task(told)}, the run was trained for {_task(trained)}")
    update: dict[str, object] = {"stats": {**told.stats, "x": trained.stats["x"]}}
    if not inputs_only:
        update = {"stats": trained.stats, "normalize_y": trained.normalize_y}
    dataset.manifest = told.model_copy(update=update)
    return dataset


def _kind(dtype: str) -> str:
    return "whole" if np.dtype(dtype).kind in "iub" else "real"


def _task(manifest: Manifest) -> str:
    if manifest.classes is None:
        return manifest.task
    return f"{manifest.task} of {manifest.classes} classes"
