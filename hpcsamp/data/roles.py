"""What each array of a set is for: an input of the network, a target, or the weight of items.

A set with one input and one target has the arrays ``x`` and ``y``. Several of either have the names
that their maker gave them, and networks and losses know them by these names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from hpcsamp.kinds import LABELS
from hpcsamp.names import TASKS

Inputs = Literal["numbers", "ids"]
"""What ``x`` is: measurements, or names of things by whole numbers, such as tokens of a text."""

Kind = Literal["numbers", "values", "ids", "flags"]
"""What one of several inputs is: ``numbers`` are standardised, ``values`` are numbers that are not,
``flags`` are true or false, such as a mask of padding."""

Several = Literal["several"]
"""The task of a set with several targets, each of which has its own."""

Missing = int | Literal["nan"]
"""What stands for a value that is not known: NaN among numbers, a whole number among labels."""

WEIGHT = "weight"
"""Name of the array with a weight for each item."""

RESERVED = {WEIGHT, "index", "coords", "stats", "integrity"}
"""Names in a shard that inputs and targets cannot have."""


class Part(BaseModel):
    """A part of the manifest: unknown keys are errors, nothing changes once read."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Target(Part):
    """One array of targets.

    Attributes
    ----------
    task, classes, class_names
        Labels ``0 .. classes - 1``, or numbers (``classes`` is ``None``).
    normalize
        Whether it is standardised for training.
    missing
        What stands for a value that is not known; ``None`` if all are.
    """

    task: str
    classes: int | None = Field(None, ge=2)
    class_names: list[str] | None = None
    normalize: bool = False
    missing: Missing | None = None


Described = Any
"""A manifest, or a source that becomes one: both have ``task``, ``classes``, ``class_names``,
``inputs``, ``normalize_y``, ``missing``, ``targets`` and ``arrays``."""


def kinds_of(told: Described) -> dict[str, Kind]:
    """What each input is, in the order in which a network gets them."""
    return dict(told.inputs) if isinstance(told.inputs, dict) else {"x": told.inputs}


def targets_of(told: Described) -> dict[str, Target]:
    """The targets by name."""
    if told.targets:
        return dict(told.targets)
    return {
        "y": Target.model_construct(
            task=told.task,
            classes=told.classes,
            class_names=told.class_names,
            normalize=told.normalize_y,
            missing=told.missing,
        )
    }


def counted(told: Described) -> list[str]:
    """Names of the arrays of numbers, which have statistics."""
    numbers = [name for name, kind in kinds_of(told).items() if kind == "numbers"]
    values = [name for name, target in targets_of(told).items() if target.classes is None]
    return numbers + values + [WEIGHT] * (WEIGHT in told.arrays)


def leading(told: Described) -> str:
    """The input with the largest items, by whose chunks items are shuffled and shards are cut."""
    return max(kinds_of(told), key=lambda name: told.arrays[name].item_bytes)


def is_plain(told: Described) -> bool:
    """Whether there are the arrays ``x`` and ``y`` alone, and all targets are known."""
    return (
        not isinstance(told.inputs, dict)
        and not told.targets
        and told.missing is None
        and (WEIGHT not in told.arrays)
    )


def check_roles(told: Described) -> None:
    """Check that roles and arrays agree.

    Raises
    ------
    ValueError
        Naming the array.
    """
    kinds, targets = kinds_of(told), targets_of(told)
    names = {*kinds, *targets} | {WEIGHT} & set(told.arrays)
    if set(told.arrays) != names:
        raise ValueError(f"arrays are {_listed(told.arrays)}, expected {_listed(names)}")
    for name in (*kinds, *targets):
        if name in RESERVED or "/" in name or not name:
            raise ValueError(f"{name!r} cannot be the name of an input or a target")
    both = set(kinds) & set(targets)
    if both:
        raise ValueError(f"{_listed(both)} cannot be an input and a target")
    if (isinstance(told.inputs, dict) and not kinds) or (told.task == "several") != bool(
        told.targets
    ):
        raise ValueError(f"task is {told.task}, inputs are {_listed(kinds)}, targets "
                         f"{_listed(told.targets)}")  # fmt: skip
    for name, kind in kinds.items():
        dtype = np.dtype(told.arrays[name].dtype)
        if kind == "ids" and dtype.kind not in "iu":
            raise ValueError(f"inputs are ids, but {name} is {told.arrays[name].dtype}")
        if kind == "flags" and dtype != np.uint8:
            raise ValueError(f"{name} holds flags, but is {told.arrays[name].dtype}")
    for name, target in targets.items():
        _check_target(name, target, np.dtype(told.arrays[name].dtype))
    if WEIGHT in told.arrays and told.arrays[WEIGHT].shape:
        raise ValueError(f"weights of items are numbers, not {told.arrays[WEIGHT].shape}")


def _check_target(name: str, target: Target, dtype: np.dtype) -> None:
    fault = TASKS.fault(target.task)
    if fault:
        raise ValueError(f"task is {target.task}: {fault}")
    if target.task in TASKS and (target.task in LABELS) != (target.classes is not None):
        raise ValueError(f"task is {target.task} but classes is {target.classes}")
    if target.class_names is not None and len(target.class_names) != target.classes:
        raise ValueError(f"{len(target.class_names)} names for {target.classes} classes")
    if target.missing == "nan" and dtype.kind != "f":
        raise ValueError(f"{name} is {dtype}, which has no NaN for missing values")
    if isinstance(target.missing, int) and (
        target.classes is None or 0 <= target.missing < target.classes
    ):
        raise ValueError(
            f"{name}: {target.missing} stands for a missing label, but there are "
            f"{target.classes} classes; among numbers NaN stands for it"
        )


def known(values: np.ndarray, missing: Missing | None) -> np.ndarray | None:
    """Where the values of a target are known, bool in their shape; ``None`` if all are."""
    if missing is None:
        return None
    return ~np.isnan(values) if missing == "nan" else values != missing


def _listed(names: Mapping[str, Any] | set[str]) -> str:
    return " and ".join(sorted(names)) or "none"
