"""What the axes of a dataset's items are called and measured in, as its shards tell it."""

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
        Such as ``latitude``.
    values
        Numbers or strings, one per position.
    units
        Of numbers.
    told
        Whether the dataset has this coordinate; if not, positions are counted.
    """

    name: str
    values: np.ndarray
    units: str = ""
    told: bool = True

    @property
    def named(self) -> bool:
        """Whether positions have names: different quantities, not points of one."""
        return self.values.dtype.kind in "OSU"


@dataclass(frozen=True)
class Coordinates:
    """Of one split.

    Attributes
    ----------
    axes
        Of an item of ``y``, in order.
    per_item
        Values by name with one number per item, ``(N,)``, e.g. ``time``; and their units.
    x_axes
        Of an item of ``x``, those that the dataset tells.
    """

    axes: list[Axis]
    per_item: dict[str, tuple[np.ndarray, str]] = field(default_factory=dict)
    x_axes: list[Axis] = field(default_factory=list)

    def axis(self, name: str) -> Axis | None:
        """The axis of the targets with this name."""
        return next((a for a in self.axes if a.name == name), None)

    def area_weights(self) -> np.ndarray | None:
        """``cos(latitude)`` with mean 1 along the axis ``latitude`` of an item, or None.

        Broadcastable to an item of ``y``; the weights of WeatherBench (Rasp et al. 2020, eq. 2).
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
    """The coordinates of a split: axes from its first shard, values per item from all.

    Parameters
    ----------
    target
        Which of its targets the axes are of.

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
            raise DataError(f"{path}: its coordinates cannot be read: {e}") from e
    return Coordinates(
        axes,
        {n: (np.concatenate(v), units[n]) for n, v in sorted(per_item.items())},
        x_axes,
    )


def read_axes(folder: Path, manifest: Manifest, array: str) -> list[Axis]:
    """The axes of an array as the first shard of a set tells them, or its table's columns.

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
            raise DataError(f"{path}: its coordinates cannot be read: {e}") from e
    columns = manifest.source.get({"x": "columns", "y": "targets"}.get(array, ""))
    if isinstance(columns, list) and [len(columns)] == list(shape) and not axes[0].told:
        axes = [Axis(NAMED[array], np.asarray(columns))]  # of a set made before axes had names
    return axes


def _in_order(axes: list[Axis], order: Mapping[int, np.ndarray]) -> list[Axis]:
    """Axes as batches have them."""
    return [
        replace(a, values=a.values[order[i]]) if i in order and a.told else a
        for i, a in enumerate(axes)
    ]


def _axes(f: h5py.File | None, array: str, shape: tuple[int, ...]) -> list[Axis]:
    """The scales attached to the axes of an array; positions where there are none."""
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
