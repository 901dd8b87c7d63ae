"""Names, values and units of the axes of a dataset's items, read from its shards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import h5py
import numpy as np

from hpcsamp.data import Dataset
from hpcsamp.data.manifest import Manifest
from hpcsamp.data.shard_writer import NAMED
from hpcsamp.errors import DataError


@dataclass(frozen=True)
class Axis:
    """One axis of the targets.

    Attributes
    ----------
    name
        Name of the axis, such as ``latitude``.
    values
        Numbers or strings, one per position.
    units
        Unit of the numbers.
    told
        Whether the dataset contains this coordinate. If not, the values are the positions 0, 1, ...
    """

    name: str
    values: np.ndarray
    units: str = ""
    told: bool = True

    @property
    def named(self) -> bool:
        """Whether positions have names: different quantities, not points along one axis."""
        return self.values.dtype.kind in "OSU"


@dataclass(frozen=True)
class Coordinates:
    """Coordinates of the items of one split.

    Attributes
    ----------
    axes
        Axes of an item of ``y``, in order.
    per_item
        Coordinates with one value per item, ``(N,)``, e.g. ``time``, by name with their units.
    x_axes
        Axes of an item of ``x`` for which the dataset has coordinates.
    """

    axes: list[Axis]
    per_item: dict[str, tuple[np.ndarray, str]] = field(default_factory=dict)
    x_axes: list[Axis] = field(default_factory=list)

    def axis(self, name: str) -> Axis | None:
        """Return the axis of the targets with this name, or None."""
        return next((a for a in self.axes if a.name == name), None)

    def area_weights(self) -> np.ndarray | None:
        """Return ``cos(latitude)`` with mean 1 along the axis ``latitude`` of an item, or None.

        The array broadcasts to an item of ``y``. These are the weights of WeatherBench (Rasp et al.
        2020, eq. 2).
        """
        for i, axis in enumerate(self.axes):
            if axis.name == "latitude":
                cosines = np.cos(np.deg2rad(axis.values.astype(float))).clip(0)
                if not cosines.sum() > 0:
                    return None
                shape = [1] * len(self.axes)
                shape[i] = -1
                return (cosines / cosines.mean()).reshape(shape)
        return None


def read_coordinates(dataset: Dataset, target: str = "y") -> Coordinates:
    """Read the coordinates of a split: axes from its first shard, values per item from all shards.

    Parameters
    ----------
    target
        Name of the target whose axes are read.

    Raises
    ------
    DataError
        If a shard cannot be read.
    """
    y_shape = tuple(dataset.manifest.arrays[target].shape)
    if not dataset.shards:
        return Coordinates(_axes(None, target, y_shape))
    per_item: dict[str, list[np.ndarray]] = {}
    units: dict[str, str] = {}
    axes: list[Axis] = []
    x_axes: list[Axis] = []
    for number, entry in enumerate(dataset.shards):
        path = dataset.path / entry.file
        try:
            with h5py.File(path, "r", locking=False) as f:
                if number == 0:
                    axes = _in_order(_axes(f, target, y_shape), dataset.order.get(target, {}))
                    shape = () if dataset.has_several_inputs else dataset.x_shape
                    all_x = _in_order(_axes(f, "x", shape), dataset.order.get("x", {}))
                    x_axes = [a for a in all_x if a.told]
                known = {a.name for a in (*axes, *x_axes)}
                for name in set(dataset.manifest.coords) - known:
                    values = f[name]
                    if values.shape == (entry.count,):
                        per_item.setdefault(name, []).append(values[:])
                        units[name] = _text(values.attrs.get("units", ""))
        except (OSError, KeyError, RuntimeError) as e:
            raise DataError(f"{path}: the coordinates cannot be read: {e}") from e
    return Coordinates(
        axes,
        {n: (np.concatenate(v), units[n]) for n, v in sorted(per_item.items())},
        x_axes,
    )


def read_axes(folder: Path, manifest: Manifest, array: str) -> list[Axis]:
    """Read the axes of an array from the first shard of a set, or from the columns of its table.

    Raises
    ------
    DataError
        If the shard cannot be read.
    """
    shape = tuple(manifest.arrays[array].shape)
    axes = _axes(None, array, shape)
    if manifest.shards:
        path = folder / manifest.shards[0].file
        try:
            with h5py.File(path, "r", locking=False) as f:
                axes = _axes(f, array, shape)
        except (OSError, KeyError, RuntimeError) as e:
            raise DataError(f"{path}: the coordinates cannot be read: {e}") from e
    columns = manifest.source.get({"x": "columns", "y": "targets"}.get(array, ""))
    if isinstance(columns, list) and [len(columns)] == list(shape) and not axes[0].told:
        axes = [Axis(NAMED[array], np.asarray(columns))]  # sets made before axes had names
    return axes


def _in_order(axes: list[Axis], order: Mapping[int, np.ndarray]) -> list[Axis]:
    """Reorder the values of axes to the order in which batches contain them."""
    return [
        replace(a, values=a.values[order[i]]) if i in order and a.told else a
        for i, a in enumerate(axes)
    ]


def _axes(f: h5py.File | None, array: str, shape: tuple[int, ...]) -> list[Axis]:
    """Return the scales attached to the axes of an array; an axis without one gets positions."""
    axes: list[Axis] = []
    for i, length in enumerate(shape):
        scales = list(f[array].dims[i + 1].values()) if f is not None else []
        if scales:
            scale = scales[0]
            values = scale.asstr()[:] if scale.dtype.kind == "O" else scale[:]
            name = scale.name.rpartition("/")[2]
            axes.append(Axis(name, values, _text(scale.attrs.get("units", ""))))
        else:
            name = "value" if len(shape) == 1 else f"axis{i + 1}"
            axes.append(Axis(name, np.arange(length), told=False))
    return axes


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
