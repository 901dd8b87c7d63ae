"""The arrays of a predictions file: names, axes, types, units and what they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

ITEM = "index"
"""Axis of the items in a file of predictions."""


@dataclass(frozen=True)
class Variable:
    """An array of the file.

    Attributes
    ----------
    dims
        Names of its axes; those that ranks write have the items first.
    dtype, units, description
        The latter two become attributes.
    values
        What is known beforehand; None for what ranks write.
    slab
        Shape of the slabs in which an item is stored, one number for each axis but the first; None
        if it is stored whole.
    """

    dims: tuple[str, ...]
    dtype: str
    units: str = ""
    description: str = ""
    values: np.ndarray | None = None
    slab: tuple[int, ...] | None = None


@dataclass
class Layout:
    """What a file holds.

    Attributes
    ----------
    scales
        By name of the axis: a one-dimensional variable with its values. The first is the items'.
    variables
        By name.
    attributes
        Of the file.
    """

    scales: dict[str, Variable]
    variables: dict[str, Variable]
    attributes: dict[str, Any] = field(default_factory=dict)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a variable."""
        return tuple(len(self.scales[d].values) for d in self.variables[name].dims)  # type: ignore[arg-type]

    @property
    def bytes(self) -> int:
        """Of all variables."""
        return sum(
            int(np.prod(self.shape(name), dtype=np.int64)) * np.dtype(v.dtype).itemsize
            for name, v in self.variables.items()
        )


def class_axis(classes: int, names: Sequence[str] | None = None) -> Variable:
    """The axis of the classes, by their names or else their labels."""
    if names is not None:
        return Variable(("class",), "O", "", "", np.asarray(names, object))
    return Variable(("class",), "<i8", "", "", np.arange(classes, dtype="<i8"))


def sample_axis(samples: int) -> Variable:
    """The axis of the weight samples."""
    return Variable(("sample",), "<i8", "", "weight sample", np.arange(samples, dtype="<i8"))
