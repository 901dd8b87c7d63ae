"""Convert items passed in Python (arrays, tensors, tables, labelled arrays) to raw inputs.

Named columns or dimensions are put into the order of the run's training set, or refused; data
without names must have the run's shape.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from hpcsamp.data.manifest import ArraySpec
from hpcsamp.errors import DataError
from hpcsamp.ingest.in_python import columns_of, listed, row_labels, table_of, unmasked
from hpcsamp.prediction.encoded import encode
from hpcsamp.prediction.schema import order_of
from hpcsamp.run.trained import Trained
from hpcsamp.tasks.coordinates import Axis


@dataclass(frozen=True)
class Given:
    """Raw items that were passed in Python, converted and checked.

    Attributes
    ----------
    arrays
        Each input by name, ``(n, *shape)``, with the dtype used in the run's dataset.
    labels
        Names of the items, ``(n,)``, such as a table's index; None if they have none.
    single
        Whether a single item was passed, without an axis of items.
    """

    arrays: dict[str, np.ndarray]
    labels: np.ndarray | None = None
    single: bool = False

    @property
    def count(self) -> int:
        """Number of items."""
        return len(next(iter(self.arrays.values())))


@dataclass(frozen=True)
class One:
    """One input: ``(n, *shape)`` values, labels of the items, and whether it is a single item."""

    values: np.ndarray
    labels: np.ndarray | None = None
    single: bool = False


def given(x: Any, trained: Trained) -> Given:
    """Convert items to the form in which the run's dataset would hold them.

    Parameters
    ----------
    x
        ``(n, *shape)`` or ``shape`` (one item): a NumPy array or something convertible to one, a
        tensor, or an ``xarray.DataArray``; for inputs with named columns also a table (anything
        with ``columns``, a structured array, a dictionary of columns, an ``xarray.Dataset``) or one
        row of it (a ``pandas.Series``, a dictionary of values). For several inputs, a dictionary of
        these by name. If the training set was made from a table with dates or categories, a table
        with the same columns is encoded alike.

    Raises
    ------
    DataError
        If names, dimensions, coordinates, units, shape, type or values differ from those of the
        run.
    """
    names = list(trained.manifest.kinds)
    several = isinstance(trained.manifest.inputs, dict)
    row = _is_row(x)
    encoded = encode(_as_table(x) if row else x, trained)
    values: Mapping[str, Any] = {"x": x}
    if encoded is not None:
        values = encoded
    elif several:
        parts = columns_of(x)
        if parts is None or set(map(str, parts)) != set(names):
            passed = listed([str(n) for n in parts]) if parts is not None else type(x).__name__
            raise DataError(f"x is {passed}; the run takes a dictionary with {listed(names)}")
        values = {str(name): part for name, part in parts.items()}
    found = {name: _one(values[name], name, trained) for name in names}
    sizes = {name: len(one.values) for name, one in found.items()}
    first = found[names[0]]
    if len(set(sizes.values())) > 1 or len({one.single for one in found.values()}) > 1:
        counts = ", ".join(
            f"{name} {'one item' if found[name].single else sizes[name]}" for name in names
        )
        raise DataError(f"inputs have different numbers of items: {counts}")
    labels = next((one.labels for one in found.values() if one.labels is not None), None)
    single = first.single
    if encoded is not None:
        labels, single = (None, True) if row else (row_labels(x), False)
    return Given({n: one.values for n, one in found.items()}, labels, single)


def _one(x: Any, name: str, trained: Trained) -> One:
    spec, axes = trained.manifest.arrays[name], trained.axes[name]
    x = unmasked(name, x)
    if isinstance(x, Mapping) and set(x) == {"x"} and not _has_columns(axes):
        x = x["x"]
    if _is_row(x):
        found = One(_table(name, _as_table(x), axes, None).values, single=True)
    elif (columns := columns_of(x)) is not None:
        found = _table(name, columns, axes, row_labels(x))
    elif hasattr(x, "dims") and hasattr(x, "transpose"):
        found = _labelled(name, x, spec, axes)
    else:
        found = _array(name, x, spec)
    _check_shape(name, found.values, spec)
    return One(_typed(name, found.values, spec), found.labels, found.single)


# Tables ---------------------------------------------------------------------------------------


def _has_columns(axes: Sequence[Axis]) -> bool:
    return len(axes) == 1 and axes[0].told and axes[0].named


def _table(
    where: str, columns: Mapping[Any, Any], axes: Sequence[Axis], labels: np.ndarray | None
) -> One:
    if not _has_columns(axes):
        raise DataError(
            f"{where} is a table, but the run's training set has no column names that determine "
            "their order: pass an array, e.g. table.to_numpy()"
        )
    wanted = [str(v) for v in axes[0].values]
    named = {str(name): column for name, column in columns.items()}
    missing = [name for name in wanted if name not in named]
    unknown = [name for name in named if name not in wanted]
    if missing or unknown:
        parts = [f"lacks {listed(missing)}"] * bool(missing)
        parts += [f"has {listed(unknown)}, which the run was not trained on"] * bool(unknown)
        raise DataError(
            f"{where} {' and '.join(parts)}; the columns of the run are {listed(wanted)}, in any "
            f"order"
        )
    return One(table_of(where, {name: named[name] for name in wanted}), labels)


def _is_row(x: Any) -> bool:
    """Whether this is one row of a table: values with their names."""
    if isinstance(x, Mapping) and not hasattr(x, "data_vars"):
        return bool(x) and all(np.ndim(value) == 0 for value in x.values())
    return hasattr(x, "index") and hasattr(x, "array") and getattr(x, "ndim", 0) == 1


def _as_table(row: Any) -> dict[str, list[Any]]:
    """Convert a row to a table of one row."""
    both = row.items() if isinstance(row, Mapping) else zip(row.index, row.array, strict=True)
    return {str(name): [value] for name, value in both}


# Arrays with dimensions -----------------------------------------------------------------------


def _labelled(where: str, x: Any, spec: ArraySpec, axes: Sequence[Axis]) -> One:
    """Convert an ``xarray.DataArray``: check and order dimensions, coordinates and units."""
    units = str(x.attrs.get("units", ""))
    if units and spec.units and units != spec.units and not _each_its_own(spec.units):
        raise DataError(
            f"units of {where} are {units!r}, but the run was trained on {spec.units!r}"
        )
    own = [axis.name for axis in axes if axis.told]
    x = _by_entries(x, [axis for axis in axes if axis.told and axis.named])
    dims = [str(d) for d in x.dims]
    if all(name == f"dim_{i}" for i, name in enumerate(dims)):  # xarray's default names
        return _array(where, x.values, spec)
    if len(own) < len(axes):  # unnamed axes are matched by their order
        named = len(dims) - len(axes)
        if named not in (0, 1):
            raise DataError(
                f"{where} has the dimensions {listed(dims)}, but an item has {len(axes)} axes"
            )
        for name, axis in zip(dims[named:], axes, strict=True):
            if axis.told and name != axis.name:
                raise DataError(f"{where} has the dimension {name} where the run has {axis.name}")
        order = dims
    else:
        missing = [name for name in own if name not in dims]
        others = [name for name in dims if name not in own]
        if missing or len(others) > 1:
            raise DataError(
                f"{where} has the dimensions {listed(dims)}; an item of the run has the dimensions "
                f"{listed(own)}, and one more dimension may index the items"
            )
        order = [*others, *own]
    single = len(order) == len(axes)
    x = x.transpose(*order)
    values = np.asarray(x)
    lead = 0 if single else 1
    for i, axis in enumerate(axes):
        name = order[lead + i]
        if axis.told and name in x.coords and len(x.coords[name]) == len(axis.values):
            theirs = np.asarray(x.coords[name])
            theirs_axis = Axis(
                axis.name, theirs, str(x.coords[name].attrs.get("units", axis.units))
            )
            places = order_of(where, theirs_axis, axis)
            if places is not None:
                values = values.take(places, lead + i)
    labels = None if single or order[0] not in x.coords else np.asarray(x.coords[order[0]])
    return One(values[None] if single else values, labels, single)


def _by_entries(x: Any, axes: Sequence[Axis]) -> Any:
    """Rename dimensions whose entries are exactly those of a named axis of the run."""
    for axis in axes:
        if axis.name in x.dims:
            continue
        entries = sorted(map(str, axis.values))
        for dim in x.dims:
            if dim in x.coords and sorted(map(str, np.asarray(x.coords[dim]))) == entries:
                x = x.rename({dim: axis.name})
                break
    return x


def _each_its_own(units: str) -> bool:
    """Whether units list those of several quantities, e.g. ``t [K], z [m]``."""
    return "[" in units


# Plain arrays ---------------------------------------------------------------------------------


def _array(where: str, x: Any, spec: ArraySpec) -> One:
    if isinstance(x, torch.Tensor):
        host = x.detach().cpu()
        x = (host.float() if host.dtype in (torch.bfloat16, torch.float16) else host).numpy()
    try:
        values = np.asarray(x)
    except ValueError as e:  # rows of different lengths
        raise DataError(f"{where} is not an array of numbers: {e}") from None
    if values.dtype.kind not in "biuf":
        raise DataError(
            f"{where} has dtype {values.dtype} ({type(x).__name__}), but the run takes numbers"
        )
    single = values.shape == tuple(spec.shape)
    return One(values[None] if single else values, None, single)


def _check_shape(where: str, x: np.ndarray, spec: ArraySpec) -> None:
    if x.ndim == 0 or x.shape[1:] != tuple(spec.shape):
        raise DataError(
            f"{where} has shape {x.shape}, but the run takes "
            f"(items, {', '.join(map(str, spec.shape))})"
            if spec.shape
            else f"{where} has shape {x.shape}, but the run takes one number per item"
        )
    if len(x) == 0:
        raise DataError(f"{where} has no items")


def _typed(where: str, x: np.ndarray, spec: ArraySpec) -> np.ndarray:
    """Convert to the dtype used in the run's dataset, without changing any value."""
    kind = np.dtype(spec.dtype)
    if x.dtype.kind == "f" and not np.isfinite(x).all():
        item = np.argwhere(~np.isfinite(x))[0]
        at = tuple(int(i) for i in item[1:])
        raise DataError(
            f"{where}: item {int(item[0])} has {x[tuple(item)]} at {at}; finite numbers are needed"
        )
    if kind.kind in "iub":
        low, high = (0, 1) if kind.kind == "b" else (np.iinfo(kind).min, np.iinfo(kind).max)
        wrong = (x < low) | (x > high) | (x != np.floor(x)) if x.dtype.kind != "b" else None
        if wrong is not None and wrong.any():
            value = x[tuple(np.argwhere(wrong)[0])]
            raise DataError(
                f"{where} holds {value:g}, but the run was trained on {kind.name}: whole numbers "
                f"from {low} to {high}"
            )
    with np.errstate(over="ignore"):
        typed = np.ascontiguousarray(x, kind)
    if kind.kind == "f" and not np.isfinite(typed).all():
        raise DataError(f"{where} holds {np.abs(x).max():g}, which is too large for {kind.name}")
    return typed
