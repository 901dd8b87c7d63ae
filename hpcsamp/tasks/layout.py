"""The arrays of a predictions file: names, axes, types, units and descriptions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

ITEM = "index"
"""Name of the axis of the items in a predictions file."""


@dataclass(frozen=True)
class FileVariable:
    """An array of a predictions file.

    Attributes
    ----------
    dims
        Names of its axes. The first axis of arrays that ranks write is that of the items.
    dtype, units, description
        Type of the values; unit and description, which become attributes.
    values
        Values that are known when the file is created; None if the ranks write them.
    slab
        Shape of the slabs in which an item is stored, one number for each axis but the first; None
        if an item is stored whole.
    standard_name
        Name of the quantity in CF conventions.
    """

    dims: tuple[str, ...]
    dtype: str
    units: str = ""
    description: str = ""
    values: np.ndarray | None = None
    slab: tuple[int, ...] | None = None
    standard_name: str = ""

    @property
    def facts(self) -> dict[str, str]:
        """Attributes of the array in a file: those that are known."""
        known = {
            "units": self.units,
            "long_name": self.description,
            "standard_name": self.standard_name,
        }
        return {k: v for k, v in known.items() if v}


@dataclass
class FileLayout:
    """The axes, arrays and attributes of a predictions file.

    Attributes
    ----------
    scales
        A one-dimensional variable for each axis, by its name, with its values. The first is that of
        the items.
    variables
        Arrays by name.
    attributes
        Attributes of the file.
    """

    scales: dict[str, FileVariable]
    variables: dict[str, FileVariable]
    attributes: dict[str, Any] = field(default_factory=dict)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a variable."""
        return tuple(len(self.scales[d].values) for d in self.variables[name].dims)  # type: ignore[arg-type]

    @property
    def bytes(self) -> int:
        """Size of all variables in bytes."""
        return sum(
            int(np.prod(self.shape(name), dtype=np.int64)) * np.dtype(v.dtype).itemsize
            for name, v in self.variables.items()
        )


def class_axis(classes: int, names: Sequence[str] | None = None) -> FileVariable:
    """Return the axis of the classes, with their names or, without names, their labels."""
    if names is not None:
        return FileVariable(("class",), "O", "", "", np.asarray(names, object))
    return FileVariable(("class",), "<i8", "", "", np.arange(classes, dtype="<i8"))


def sample_axis(samples: int) -> FileVariable:
    """Return the axis of the weight samples."""
    return FileVariable(("sample",), "<i8", "", "weight sample", np.arange(samples, dtype="<i8"))
