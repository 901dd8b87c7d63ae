"""Check that another dataset fits a trained network: names, order, units and coordinates."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

import numpy as np

from hpcsamp.data import Dataset
from hpcsamp.data.manifest import Manifest
from hpcsamp.data.roles import Target
from hpcsamp.errors import DataError
from hpcsamp.run.trained import Trained
from hpcsamp.tasks.coordinates import Axis, read_axes

FAR = 3
"""Difference of means, in standard deviations, from which inputs are reported as different."""

CLOSE = 1e-6
"""Relative difference up to which coordinates count as equal."""


def as_trained(
    dataset: Dataset,
    of_run: Trained,
    *,
    inputs_only: bool = False,
) -> Dataset:
    """Prepare a dataset for a network: standardise it by the statistics of the *training* set.

    Names, units and coordinates must be those of the training set. If only their order differs,
    :attr:`~hpcsamp.data.Dataset.order` restores the order of the training set, and a note reports
    it.

    Parameters
    ----------
    dataset
        An opened split of any dataset; it is modified.
    of_run
        Dataset that the network was trained on.
    inputs_only
        Whether targets may differ (for out-of-distribution items).

    Returns
    -------
    Dataset
        The same object.

    Raises
    ------
    DataError
        If shape, type, kind of inputs, task, names, units or coordinates differ; the message
        contains both values.
    """
    manifest, trained = dataset.manifest, of_run.manifest
    if manifest.uid == trained.uid:
        return dataset
    names = [*trained.kinds, *([] if inputs_only else trained.targets_by_name)]
    _check_names(dataset, trained, inputs_only)
    for name in names:
        ours, theirs = trained.arrays[name], manifest.arrays[name]
        where = f"{dataset.path}: {name}"
        if ours.shape != theirs.shape:
            raise DataError(
                f"{where} of an item has shape {tuple(theirs.shape)}, but the run was "
                f"trained on {tuple(ours.shape)}"
            )
        holds = manifest.kinds.get(name)
        if holds != trained.kinds.get(name):
            raise DataError(
                f"{where} holds {holds}, but the run was trained on {trained.kinds.get(name)}"
            )
        kinds = [_kind(a.dtype) for a in (theirs, ours)]
        if kinds[0] != kinds[1]:
            raise DataError(
                f"{where} has dtype {np.dtype(theirs.dtype).name}, but the run was trained on "
                f"{np.dtype(ours.dtype).name}"
            )
    targets = {} if inputs_only else trained.targets_by_name
    for name, target in targets.items():
        given = manifest.targets_by_name[name]
        if (given.task, given.classes) != (target.task, target.classes):
            of = f"{name} is a target of " if trained.targets else ""
            raise DataError(
                f"{dataset.path}: {of}{_task(given)}, but the run was trained for {_task(target)}"
            )
        if given.class_names and target.class_names and given.class_names != target.class_names:
            pairs_of_names = zip(given.class_names, target.class_names, strict=True)
            at, theirs_name, ours_name = next(
                (i, a, b) for i, (a, b) in enumerate(pairs_of_names) if a != b
            )
            raise DataError(
                f"{dataset.path}: class {at} of {name} is {theirs_name!r}, but the run was trained "
                f"on {ours_name!r}; ingest a table with --like"
            )
    for name in names:
        _compare(f"{dataset.path}: {name}", _facts(manifest, name), _facts(trained, name))
        theirs_axes = read_axes(dataset.path, manifest, name)
        pairs = zip(theirs_axes, of_run.axes[name], strict=True)
        for i, (theirs_axis, ours_axis) in enumerate(pairs):
            order = order_of(f"{dataset.path}: {name}", theirs_axis, ours_axis)
            if order is not None:
                dataset.order.setdefault(name, {})[i] = order
                dataset.notes.append(
                    f"{dataset.path}: the {len(order)} entries of {name} along {ours_axis.name} "
                    "are put into the order of the run's training set"
                )
    if not inputs_only and not dataset.order:
        dataset.notes += [f"{dataset.path}: {line}" for line in _unlike(manifest, trained)]
    # inputs are ordered as for the network; missing values are marked as in this dataset
    ours_of_names = {name: trained.stats[name] for name in names if name in trained.stats}
    update: dict[str, object] = {
        "stats": {**manifest.stats, **ours_of_names},
        "inputs": trained.inputs,
    }
    if not inputs_only:
        update["normalize_y"] = trained.normalize_y
        update["targets"] = {
            name: manifest.targets[name].model_copy(update={"normalize": target.normalize})
            for name, target in trained.targets.items()
        }
    dataset.manifest = manifest.model_copy(update=update)
    return dataset


def _check_names(dataset: Dataset, trained: Manifest, inputs_only: bool) -> None:
    """Refuse a dataset with other inputs or targets than those of training; list both."""
    manifest = dataset.manifest
    pairs: list[tuple[str, Iterable[str], Iterable[str]]] = [
        ("inputs", manifest.kinds, trained.kinds)
    ]
    if not inputs_only:
        pairs.append(("targets", manifest.targets_by_name, trained.targets_by_name))
    for what, theirs, ours in pairs:
        if set(theirs) != set(ours):
            raise DataError(
                f"{dataset.path} has the {what} {', '.join(theirs)}, but the run was trained on "
                f"{', '.join(ours)}"
            )


def _unlike(manifest: Manifest, trained: Manifest) -> list[str]:
    """Return a warning if the distribution of an input differs from that in training.

    This is the only possible check if datasets have no names.
    """
    for name, kind in trained.kinds.items():
        if kind == "numbers":
            found = _unlike_array(manifest, trained, name)
            if found:
                return found
    return []


def _unlike_array(manifest: Manifest, trained: Manifest, name: str) -> list[str]:
    theirs, ours = manifest.stats[name], trained.stats[name]
    mean, std = np.asarray(ours.mean), np.asarray(ours.std)
    with np.errstate(divide="ignore", invalid="ignore"):
        away = np.abs(np.asarray(theirs.mean) - mean) > FAR * std
        wider = np.abs(np.log10(np.asarray(theirs.std) / std)) > 1
    odd = np.flatnonzero((away | wider) & (std > 0))
    if not len(odd):
        return []
    i = int(odd[0])
    return [
        f"{len(odd)} of {len(std)} channels of {name} are distributed unlike those of the run's "
        f"training set: channel {i} is {theirs.mean[i]:.4g} ± {theirs.std[i]:.4g} there, "
        f"{ours.mean[i]:.4g} ± {ours.std[i]:.4g} in training"
    ]


def order_of(where: str, theirs: Axis, ours: Axis) -> np.ndarray | None:
    """Positions of the entries of ``ours`` in ``theirs``; None if the order is the same.

    Raises
    ------
    DataError
        If the axes hold different entries; the message contains the first one.
    """
    if not theirs.told and not ours.told:
        return None
    if theirs.told != ours.told:
        named, which = (theirs, "it") if theirs.told else (ours, "the run's training set")
        raise DataError(
            f"{where}: names or coordinates cannot be compared, because only {which} has a "
            f"{named.name}, which begins with {_show(named.values[:3])}; make both sets alike"
        )
    for what in ("name", "units"):
        a, b = getattr(theirs, what), getattr(ours, what)
        if a != b:
            raise DataError(
                f"{where}: {what} of the axis {ours.name} is {a!r}, but the run was trained on "
                f"{b!r}"
            )
    if theirs.named != ours.named:
        raise DataError(
            f"{where}: {ours.name} is {_show(theirs.values[:3])}, but the run was trained on "
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
        f"{where}: {ours.name} {at} is {theirs.values[at]:g}, but the run was trained on "
        f"{ours.values[at]:g}"
    )


def _facts(manifest: Manifest, array: str) -> dict[str, str]:
    """Describe an array beyond its axes: its units, and other facts from its manifest."""
    units = manifest.arrays[array].units
    each = dict(re.findall(r"(\S+) \[([^\]]*)\]", units))
    facts = {f"units of {name}": unit for name, unit in each.items()} or {"units": units}
    if array == "y":
        targets = manifest.arrays["y"].names or manifest.source.get("targets")
        if isinstance(targets, list) and not manifest.arrays["y"].shape:
            facts["column"] = ", ".join(targets)
    return facts | manifest.meaning.get(array, {})


def _compare(where: str, theirs: dict[str, str], ours: dict[str, str]) -> None:
    for what in [*ours, *theirs]:
        a, b = theirs.get(what, ""), ours.get(what, "")
        if a != b:
            raise DataError(
                f"{where}: {what} is {_or_missing(a)}, but the run was trained on {_or_missing(b)}"
            )


def _or_missing(value: str) -> str:
    return repr(value) if value else "not given"


def _show(values: np.ndarray) -> str:
    return ", ".join(map(str, values.tolist()))


def _kind(dtype: str) -> str:
    return "whole" if np.dtype(dtype).kind in "iub" else "real"


def _task(target: Target) -> str:
    if target.classes is None:
        return target.task
    return f"{target.task} of {target.classes} classes"
