"""Predict the items of a calibration set."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hpcsamp.calibration.record import Recalibration
from hpcsamp.data import Dataset
from hpcsamp.data.manifest import read_manifest
from hpcsamp.errors import UsageError
from hpcsamp.grid import together
from hpcsamp.prediction.posterior import Posterior
from hpcsamp.tasks import Task, View
from hpcsamp.tasks.coordinates import Coordinates
from hpcsamp.tasks.labels import Labels
from hpcsamp.tasks.recalibrated import Recalibrated, recalibrated
from hpcsamp.tasks.several import Several, in_file

KEEP_BYTES = 1 << 30
"""Largest number of bytes of the predictions of all calibration items, which each rank holds."""


@dataclass(frozen=True)
class Material:
    """Predictions of the calibration items for one target.

    Attributes
    ----------
    name, title
        Name of the target, ``y`` if there is only one; and its name in messages.
    arrays
        ``(n, ...)`` float64 by name: ``target`` (NaN if unknown) with ``log_probabilities``; or
        with ``mean``, ``std``, two ``quantiles``, and ``series_std`` of several series. Empty if
        there are no such predictions.
    series
        Whether the values of an item are time steps.
    time
        ``(n,)`` times of the items, if the set has them.
    """

    name: str
    title: str
    arrays: Mapping[str, np.ndarray]
    series: bool = False
    time: np.ndarray | None = None

    @property
    def classes(self) -> bool:
        """Whether the target is a label."""
        return "log_probabilities" in self.arrays


def collect(
    posterior: Posterior, dataset: Dataset, level: float, *, quantiles: bool = True
) -> list[Material]:
    """Predict the calibration items; every rank returns all of them. Collective over the world.

    Raises
    ------
    UsageError
        If no target has predictions that can be recalibrated, or they need too much memory.
    """
    levels = 0.5 * (1 - level), 0.5 * (1 + level)
    method = posterior.method
    targets = posterior.run.shapes.targets
    # the task, wrapped with an empty recalibration, also computes logarithms of probabilities
    task = recalibrated(posterior.run.task, dict.fromkeys(targets.parts or ["y"], Recalibration()))
    evaluator = posterior.evaluator(dataset, task)
    try:
        view = evaluator.view(method)
        has = task.has_quantiles(posterior.likelihood) and quantiles
        asked = levels if has else ()
        wanted: dict[str, dict[str, str]] = {}
        for name, part in (view.parts or {"y": view}).items():
            own = _wanted(task, view, part, asked)
            wanted[name] = {array: in_file(name, array) if view.parts else array for array in own}
        shapes = _shapes(view, wanted, len(asked))
        with together(posterior.topology.world):
            if not any(wanted.values()):
                raise UsageError(
                    f'the targets ({view.targets}, task "{task.kind}") cannot be recalibrated: '
                    f"this needs probabilities of one label for each item, or a predictive mean "
                    f"and standard deviation of numeric targets"
                )
            size = dataset.count * sum(8 * int(np.prod(s)) for s in shapes.values())
            if size > KEEP_BYTES:
                raise UsageError(
                    f"the predictions of the {dataset.count} items of {dataset.split} need "
                    f"{size / 1e9:.3g} GB on every rank, but at most {KEEP_BYTES / 1e9:.3g} GB are "
                    f"used; choose a smaller split"
                )
        kept = {name: np.zeros((dataset.count, *shape)) for name, shape in shapes.items()}

        def keep(rows: np.ndarray, arrays: dict[str, np.ndarray]) -> None:
            for name, values in arrays.items():
                kept[name][rows] = values

        found = evaluator.run(
            method, full=task.labels or bool(view.parts), sink=keep, wanted=list(kept),
            quantiles=asked,
        )  # fmt: skip
        if posterior.topology.data_size > 1:
            for values in kept.values():
                evaluator.collectives.sum_(torch.from_numpy(values), "data")
    finally:
        evaluator.close()
    made = []
    for name, names in wanted.items():
        arrays = {array: kept[stored] for array, stored in names.items()}
        wrong = f"{name}/wrong" if view.parts else "wrong"
        if "log_probabilities" in arrays and wrong in found.scores:  # NaN: the label is unknown
            unknown = np.isnan(found.scores[wrong])
            arrays["target"] = np.where(unknown, np.nan, arrays["target"])
        part = view.parts.get(name, view)
        first = part.coordinates.axes[:1]
        series = len(part.targets.shape) == 1 and not any(axis.named for axis in first)
        title = posterior.trained.title(name)
        made.append(Material(name, title, arrays, series, times_of(part.coordinates)))
    return made


def times_of(of: Coordinates) -> np.ndarray | None:
    """Times of the items ``(n,)``, or of the last known values of forecasts; None without them."""
    found = of.per_item.get("time") or of.per_item.get("origin")
    return None if found is None else found[0]


def _wanted(whole: Task, view: View, part: View, levels: tuple[float, ...]) -> list[str]:
    """Names of a target's arrays that a recalibration needs; empty if it has no such arrays."""
    task = whole.outputs[part.target].task if isinstance(whole, Several) else whole
    assert isinstance(task, Recalibrated)
    own = levels if task.has_quantiles(part.likelihood) else ()
    _, made = task.variables(part, dtype="<f8", levels=own, samples=0, values=True)
    if isinstance(task.task, Labels):
        one = not part.targets.shape and "probabilities" in made
        one = one and made["probabilities"].dims[1:] == ("class",)
        return ["target", "log_probabilities"] if one else []
    if not task.labels and {"target", "mean", "std"} <= made.keys():
        more = ["quantiles"] * bool(own) + ["series_std"] * (part.units.series is not None)
        return ["target", "mean", "std", *more]
    return []


def _shapes(
    view: View, wanted: Mapping[str, Mapping[str, str]], levels: int
) -> dict[str, tuple[int, ...]]:
    """Shape of each array for one item, by the array's name in a file."""
    made: dict[str, tuple[int, ...]] = {}
    for name, names in wanted.items():
        part = view.parts.get(name, view)
        for array, stored in names.items():
            shape = tuple(part.targets.shape)
            if array == "log_probabilities":
                assert part.targets.classes is not None
                shape = (part.targets.classes,)
            made[stored] = (levels, *shape) if array == "quantiles" else shape
    return made


def split_of(posterior: Posterior, data: str | Path | None, split: str | None) -> str | None:
    """Open the calibration split; ``valid`` of the run's own dataset by default."""
    if split is None and data is None:
        splits = read_manifest(Path(posterior.config.data.path)).splits
        if "valid" not in splits:
            raise UsageError(
                f"{posterior.config.data.path} has no split valid, only {', '.join(splits)}: name "
                f"one with --split whose items were not used for training, or another dataset with "
                f"--data"
            )
        return "valid"
    return split


def check_unseen(posterior: Posterior, dataset: Dataset) -> None:
    """Refuse the training split of the run, even if it was opened by another path.

    Raises
    ------
    UsageError
        If the calibration set is the training split of the dataset of the run.
    """
    if dataset.split == "train" and dataset.uid == posterior.trained.manifest.uid:
        raise UsageError(
            f"{dataset.path}, split train: the network has seen these items, and their scores are "
            f"smaller than those of new ones; choose another split, or another dataset with --data"
        )


def facts(dataset: Dataset) -> dict[str, Any]:
    """Describe a calibration set; its hash is that of the checksums of its shards."""
    sums = "\n".join(entry.sha256 for entry in dataset.shards)
    return {
        "path": str(dataset.path),
        "uid": dataset.uid,
        "split": dataset.split,
        "items": dataset.count,
        "sha256": hashlib.sha256(sums.encode()).hexdigest(),
    }
