"""Another dataset for a trained network: does it mean the same, in which order and units?"""

from __future__ import annotations

import re
from collections import Counter

import numpy as np

from hpcsamp.data import Dataset
from hpcsamp.data.manifest import Manifest
from hpcsamp.errors import DataError
from hpcsamp.run.trained import Trained
from hpcsamp.tasks.coordinates import Axis, read_axes

FAR = 3
"""Distance of means, in standard deviations, from which inputs are reported as unlike."""

CLOSE = 1e-6
"""Relative difference of coordinates that are taken as equal."""


def as_trained(
    dataset: Dataset,
    of_run: Trained,
    *,
    inputs_only: bool = False,
) -> Dataset:
    """A dataset as the network saw its own: standardised by the statistics of *its* training set.

    Names, units and coordinates must be those of the training set; where they only come in another
    order, :attr:`~hpcsamp.data.Dataset.order` puts them into that of the training set, and a note
    tells so.

    Parameters
    ----------
    dataset
        An opened split of any set; it is changed.
    of_run
        The set that the network was trained on.
    inputs_only
        Whether targets may be of another kind (out-of-distribution items).

    Returns
    -------
    Dataset
        The same one.

    Raises
    ------
    DataError
        If shape, type, kind of inputs, task, names, units or coordinates differ, with both.
    """
    told, trained = dataset.manifest, of_run.manifest
    if told.uid == trained.uid:
        return dataset
    names = ("x",) if inputs_only else ("x", "y")
    for name in names:
        ours, theirs = trained.arrays[name], told.arrays[name]
        where = f"{dataset.path}: {name}"
        if ours.shape != theirs.shape:
            raise DataError(
                f"{where} of an item has shape {tuple(theirs.shape)}, the run was "
                f"trained on {tuple(ours.shape)}"
            )
        if name == "x" and told.inputs != trained.inputs:
            raise DataError(f"{where} holds {told.inputs}, the run was trained on {trained.inputs}")
        kinds = [_kind(a.dtype) for a in (theirs, ours)]
        if kinds[0] != kinds[1]:
            raise DataError(
                f"{where} is {np.dtype(theirs.dtype).name}, the run was trained on "
                f"{np.dtype(ours.dtype).name}"
            )
    if not inputs_only and (told.task, told.classes) != (trained.task, trained.classes):
        raise DataError(f"{dataset.path}: {_task(told)}, the run was trained for {_task(trained)}")
    for name in names:
        _compare(f"{dataset.path}: {name}", _facts(told, name), _facts(trained, name))
        theirs_axes = read_axes(dataset.path, told, name)
        pairs = zip(theirs_axes, of_run.axes[name], strict=True)
        for i, (theirs_axis, ours_axis) in enumerate(pairs):
            order = _order(f"{dataset.path}: {name}", theirs_axis, ours_axis)
            if order is not None:
                dataset.order.setdefault(name, {})[i] = order
                dataset.notes.append(
                    f"{dataset.path}: the {len(order)} entries of {name} along {ours_axis.name} "
                    "are put into the order of the run's training set"
                )
    if not inputs_only and not dataset.order:
        dataset.notes += [f"{dataset.path}: {line}" for line in _unlike(told, trained)]
    ours_of_x = {"x": trained.stats["x"]} if "x" in trained.stats else {}
    update: dict[str, object] = {"stats": {**told.stats, **ours_of_x}}
    if not inputs_only:
        update = {"stats": trained.stats, "normalize_y": trained.normalize_y}
    dataset.manifest = told.model_copy(update=update)
    return dataset


def _unlike(told: Manifest, trained: Manifest) -> list[str]:
    """A line if inputs are distributed unlike those of training: all that can be seen of sets
    without names."""
    if trained.inputs == "ids":
        return []
    theirs, ours = told.stats["x"], trained.stats["x"]
    mean, std = np.asarray(ours.mean), np.asarray(ours.std)
    with np.errstate(divide="ignore", invalid="ignore"):
        away = np.abs(np.asarray(theirs.mean) - mean) > FAR * std
        wider = np.abs(np.log10(np.asarray(theirs.std) / std)) > 1
    odd = np.flatnonzero((away | wider) & (std > 0))
    if not len(odd):
        return []
    i = int(odd[0])
    return [
        f"{len(odd)} of {len(std)} channels of x are distributed unlike those of the run's "
        f"training set: channel {i} is {theirs.mean[i]:.4g} ± {theirs.std[i]:.4g} there, "
        f"{ours.mean[i]:.4g} ± {ours.std[i]:.4g} in training"
    ]


def _order(where: str, theirs: Axis, ours: Axis) -> np.ndarray | None:
    """Positions of our entries in theirs; None if the order is the same.

    Raises
    ------
    DataError
        If the axes hold other entries, naming the first.
    """
    if not theirs.told and not ours.told:
        return None
    if theirs.told != ours.told:
        named, which = (theirs, "it") if theirs.told else (ours, "the run's training set")
        raise DataError(
            f"{where} has no names or coordinates to compare: only {which} tells a {named.name}, "
            f"which begins with {_show(named.values[:3])}; make both sets in the same way"
        )
    for what in ("name", "units"):
        a, b = getattr(theirs, what), getattr(ours, what)
        if a != b:
            raise DataError(
                f"{where}: {what} of the axis {ours.name} is {a!r}, the run was trained on {b!r}"
            )
    if theirs.named != ours.named:
        raise DataError(
            f"{where}: {ours.name} is {_show(theirs.values[:3])}, the run was trained on "
            f"{_show(ours.values[:3])}"
        )
    if _same(theirs.values, ours.values).all():
        return None
    order = np.empty(len(ours.values), np.int64)
    order[_sorted(ours.values)] = _sorted(theirs.values)
    if _same(theirs.values[order], ours.values).all():
        return order
    _refuse(where, theirs, ours)
    return None


def _sorted(values: np.ndarray) -> np.ndarray:
    return np.argsort(values.astype(str) if values.dtype.kind in "OSU" else values, kind="stable")


def _same(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if a.dtype.kind in "OSU":
        return a.astype(str) == b.astype(str)
    return np.isclose(a.astype(float), b.astype(float), rtol=CLOSE, atol=CLOSE)


def _refuse(where: str, theirs: Axis, ours: Axis) -> None:
    if ours.named:
        a, b = (Counter(axis.values.astype(str).tolist()) for axis in (theirs, ours))
        strange, lacking = list(a - b), list(b - a)
        raise DataError(
            f"{where}: {ours.name} {strange[0]!r} is not in the run's training set, "
            f"which has {lacking[0]!r} ({len(strange)} of {len(ours.values)} differ)"
        )
    at = int(np.flatnonzero(~_same(theirs.values, ours.values))[0])
    raise DataError(
        f"{where}: {ours.name} {at} is {theirs.values[at]:g}, the run was trained on "
        f"{ours.values[at]:g}"
    )


def _facts(manifest: Manifest, array: str) -> dict[str, str]:
    """What an array's numbers are beside its axes: units, and what its manifest tells."""
    units = manifest.arrays[array].units
    each = dict(re.findall(r"(\S+) \[([^\]]*)\]", units))
    facts = {f"units of {name}": unit for name, unit in each.items()} or {"units": units}
    targets = manifest.source.get("targets")
    if array == "y" and isinstance(targets, list) and not manifest.arrays["y"].shape:
        facts["column"] = ", ".join(targets)
    return facts | manifest.meaning.get(array, {})


def _compare(where: str, theirs: dict[str, str], ours: dict[str, str]) -> None:
    for what in [*ours, *theirs]:
        a, b = theirs.get(what, ""), ours.get(what, "")
        if a != b:
            raise DataError(f"{where}: {what} is {_told(a)}, the run was trained on {_told(b)}")


def _told(value: str) -> str:
    return repr(value) if value else "not told"


def _show(values: np.ndarray) -> str:
    return ", ".join(map(str, values.tolist()))


def _kind(dtype: str) -> str:
    return "whole" if np.dtype(dtype).kind in "iub" else "real"


def _task(manifest: Manifest) -> str:
    if manifest.classes is None:
        return manifest.task
    return f"{manifest.task} of {manifest.classes} classes"
