"""Roles of the arrays of a dataset: inputs of the network, targets, and weights of items.

A dataset with one input and one target has the arrays ``x`` and ``y``. Several inputs or targets
have the names chosen when the dataset was made; networks and losses use these names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from hpcsamp.kinds import LABELS
from hpcsamp.names import TASKS

Inputs = Literal["numbers", "ids"]
"""Kind of ``x``: measurements, or integers that are identifiers, such as tokens of a text."""

Kind = Literal["numbers", "values", "ids", "flags"]
"""Kind of one of several inputs: ``numbers`` are standardised; ``values`` are numbers that are not
standardised; ``ids`` are integers that are identifiers; ``flags`` are true or false, such as a
padding mask."""

Several = Literal["several"]
"""The task of a dataset with several targets, each of which has a task of its own."""

Missing = int | Literal["nan"]
"""Mark of a missing value: NaN in numeric targets, an integer in labels."""

WEIGHT = "weight"
"""Name of the array with the weight of each item."""

RESERVED = {WEIGHT, "index", "coords", "stats", "integrity"}
"""Names that inputs and targets cannot have, because shards use them for other data."""


class ManifestPart(BaseModel):
    """Base class of the parts of the manifest: immutable, and unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Target(ManifestPart):
    """Description of one array of targets.

    Attributes
    ----------
    task
        The kind of task.
    classes, class_names
        Number and names of the classes of labels ``0 .. classes - 1``; ``None`` for
        numeric targets.
    normalize
        Whether the target is standardised for training.
    missing
        Mark of a missing value; ``None`` if all values are known.
    """

    task: str
    classes: int | None = Field(None, ge=2)
    class_names: list[str] | None = None
    normalize: bool = False
    missing: Missing | None = None


Described = Any
"""A manifest, or a data source for which one will be written: both have ``task``, ``classes``,
``class_names``, ``inputs``, ``normalize_y``, ``missing``, ``targets`` and ``arrays``."""


def kinds_of(data: Described) -> dict[str, Kind]:
    """Kind of each input by name, in the order of the network's arguments."""
    return dict(data.inputs) if isinstance(data.inputs, dict) else {"x": data.inputs}


def targets_of(data: Described) -> dict[str, Target]:
    """Description of each target by name; a single target is called ``y``."""
    if data.targets:
        return dict(data.targets)
    return {
        "y": Target.model_construct(
            task=data.task,
            classes=data.classes,
            class_names=data.class_names,
            normalize=data.normalize_y,
            missing=data.missing,
        )
    }


def counted(data: Described) -> list[str]:
    """Names of the numeric arrays, for which statistics are computed."""
    numbers = [name for name, kind in kinds_of(data).items() if kind == "numbers"]
    values = [name for name, target in targets_of(data).items() if target.classes is None]
    return numbers + values + [WEIGHT] * (WEIGHT in data.arrays)


def leading(data: Described) -> str:
    """The input with the largest items, whose chunks determine shuffling and the size of shards."""
    return max(kinds_of(data), key=lambda name: data.arrays[name].item_bytes)


def is_plain(data: Described) -> bool:
    """Whether the only arrays are ``x`` and ``y``, without missing targets."""
    return (
        not isinstance(data.inputs, dict)
        and not data.targets
        and data.missing is None
        and (WEIGHT not in data.arrays)
    )


def check_roles(data: Described) -> None:
    """Check that roles and arrays are consistent.

    Raises
    ------
    ValueError
        If they are inconsistent; the message names the array.
    """
    kinds, targets = kinds_of(data), targets_of(data)
    names = {*kinds, *targets} | {WEIGHT} & set(data.arrays)
    if set(data.arrays) != names:
        raise ValueError(f"the arrays are {_listed(data.arrays)}, expected {_listed(names)}")
    for name in (*kinds, *targets):
        if name in RESERVED or "/" in name or not name:
            raise ValueError(f"{name!r} cannot be the name of an input or a target")
    both = set(kinds) & set(targets)
    if both:
        raise ValueError(f"{_listed(both)} cannot be both an input and a target")
    if (isinstance(data.inputs, dict) and not kinds) or (data.task == "several") != bool(
        data.targets
    ):
        raise ValueError(f"the task is {data.task}, but the inputs are {_listed(kinds)} and the "
                         f"targets {_listed(data.targets)}")  # fmt: skip
    for name, kind in kinds.items():
        dtype = np.dtype(data.arrays[name].dtype)
        if kind == "ids" and dtype.kind not in "iu":
            raise ValueError(
                f"{name} holds ids, which must be integers, but its type is "
                f"{data.arrays[name].dtype}"
            )
        if kind == "flags" and dtype != np.uint8:
            raise ValueError(
                f"{name} holds flags, which must be uint8, but its type is "
                f"{data.arrays[name].dtype}"
            )
    for name, target in targets.items():
        _check_target(name, target, np.dtype(data.arrays[name].dtype))
    if WEIGHT in data.arrays and data.arrays[WEIGHT].shape:
        raise ValueError(
            f"the weight of an item must be a scalar, but its shape is {data.arrays[WEIGHT].shape}"
        )


def _check_target(name: str, target: Target, dtype: np.dtype) -> None:
    fault = TASKS.fault(target.task)
    if fault:
        raise ValueError(f"task is {target.task}: {fault}")
    if target.task in TASKS and (target.task in LABELS) != (target.classes is not None):
        raise ValueError(f"task is {target.task} but classes is {target.classes}")
    if target.class_names is not None and len(target.class_names) != target.classes:
        raise ValueError(f"there are {len(target.class_names)} names for {target.classes} classes")
    if target.missing == "nan" and dtype.kind != "f":
        raise ValueError(f"the type of {name} is {dtype}, which has no NaN to mark missing values")
    if isinstance(target.missing, int) and (
        target.classes is None or 0 <= target.missing < target.classes
    ):
        raise ValueError(
            f"{name}: {target.missing} marks a missing label, but there are {target.classes} "
            f"classes; choose a number that is not a label, or NaN if targets are numbers"
        )


def known(values: np.ndarray, missing: Missing | None) -> np.ndarray | None:
    """Whether each value of a target is known, bool in its shape; ``None`` if all are known."""
    if missing is None:
        return None
    return ~np.isnan(values) if missing == "nan" else values != missing


def _listed(names: Mapping[str, Any] | set[str]) -> str:
    return " and ".join(sorted(names)) or "none"
