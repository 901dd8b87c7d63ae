"""Items that are given in Python: arrays, tensors, tables and labelled arrays as raw inputs.

What has names is put into the order of the run's training set by its names, or refused; what has
none must have the run's shape. Nothing is imported for it: a table or a labelled array is known by
what it can do, so that pandas and xarray are needed by those alone who use them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from hpcsamp.data.manifest import ArraySpec
from hpcsamp.errors import DataError
from hpcsamp.prediction.schema import order_of
from hpcsamp.run.trained import Trained
from hpcsamp.tasks.coordinates import Axis

SHOWN = 5
"""Names that a message lists at most."""


@dataclass(frozen=True)
class Given:
    """Raw items.

    Attributes
    ----------
    arrays
        ``(n, *shape)`` of each input by name, in the type of the run's dataset.
    labels
        ``(n,)`` names of the items, such as a table's index; None if they have none.
    single
        Whether one item was given, without an axis of items.
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
    """What was given of one input: ``(n, *shape)``, labels of the items, and whether it was one."""

    values: np.ndarray
    labels: np.ndarray | None = None
    single: bool = False


def given(x: Any, trained: Trained) -> Given:
    """Raw items as a run's dataset would hold them.

    Parameters
    ----------
    x
        ``(n, *shape)`` or ``shape`` (one item): a NumPy array or what becomes one, a tensor, an
        ``xarray.DataArray``; for inputs with named columns also a table (anything with ``columns``,
        a structured array, a dictionary of columns, an ``xarray.Dataset``) or one row of it (a
        ``pandas.Series``). Of several inputs a dictionary of these by name.

    Raises
    ------
    DataError
        If names, dimensions, coordinates, units, shape, type or values are not those of the run.
    """
    names = list(trained.manifest.kinds)
    several = isinstance(trained.manifest.inputs, dict)
    if several:
        parts = _columns(x)
        if parts is None or set(map(str, parts)) != set(names):
            told = _list([str(n) for n in parts]) if parts is not None else type(x).__name__
            raise DataError(f"x is {told}; the run takes a dictionary with {_list(names)}")
        values = {str(name): part for name, part in parts.items()}
    else:
        values = {"x": x}
    found = {name: _one(values[name], name, trained) for name in names}
    sizes = {name: len(one.values) for name, one in found.items()}
    first = found[names[0]]
    if len(set(sizes.values())) > 1 or len({one.single for one in found.values()}) > 1:
        counts = ", ".join(
            f"{name} {'one item' if found[name].single else sizes[name]}" for name in names
        )
        raise DataError(f"inputs have different numbers of items: {counts}")
    labels = next((one.labels for one in found.values() if one.labels is not None), None)
    return Given({n: one.values for n, one in found.items()}, labels, first.single)


def _one(x: Any, name: str, trained: Trained) -> One:
    spec, axes = trained.manifest.arrays[name], trained.axes[name]
    if isinstance(x, Mapping) and set(x) == {"x"} and not _has_columns(axes):
        x = x["x"]
    columns = _columns(x)
    if columns is not None:
        found = _table(name, columns, axes, _row_labels(x))
    elif hasattr(x, "dims") and hasattr(x, "transpose"):
        found = _labelled(name, x, spec, axes)
    elif _is_row(x):
        row = {str(name): [value] for name, value in zip(x.index, x.array, strict=True)}
        found = One(_table(name, row, axes, None).values, single=True)
    else:
        found = _array(name, x, spec)
    _check_shape(name, found.values, spec)
    return One(_typed(name, found.values, spec), found.labels, found.single)


# Tables ---------------------------------------------------------------------------------------


def _columns(x: Any) -> Mapping[Any, Any] | None:
    """Columns by name of what has some, else None."""
    if isinstance(x, Mapping) and not hasattr(x, "data_vars"):
        return x
    if isinstance(x, np.ndarray) and x.dtype.names:
        return {name: x[name] for name in x.dtype.names}
    if hasattr(x, "data_vars"):
        return {name: x[name] for name in x.data_vars}
    names = getattr(x, "column_names", None)  # arrow
    if names is None:
        names = getattr(x, "columns", None)  # pandas, polars
    if names is None or isinstance(x, np.ndarray | torch.Tensor):
        return None
    names = list(names)
    twice = sorted({str(n) for n in names if names.count(n) > 1})
    if twice:
        raise DataError(f"there are several columns of the name {', '.join(twice[:SHOWN])}")
    return {name: x[name] for name in names}


def _has_columns(axes: Sequence[Axis]) -> bool:
    return len(axes) == 1 and axes[0].told and axes[0].named


def _table(
    where: str, columns: Mapping[Any, Any], axes: Sequence[Axis], labels: np.ndarray | None
) -> One:
    if not _has_columns(axes):
        raise DataError(
            f"{where} is a table, but the inputs of the run's training set have no names of columns"
            " to put it in order by: pass an array, e.g. table.to_numpy()"
        )
    wanted = [str(v) for v in axes[0].values]
    named = {str(name): column for name, column in columns.items()}
    missing = [name for name in wanted if name not in named]
    unknown = [name for name in named if name not in wanted]
    if missing or unknown:
        parts = [f"lacks {_list(missing)}"] * bool(missing)
        parts += [f"has {_list(unknown)}, which the run does not know"] * bool(unknown)
        raise DataError(
            f"{where} {' and '.join(parts)}; the columns of the run are {_list(wanted)}, in any "
            f"order"
        )
    found = [_column(f"column {name} of {where}", named[name]) for name in wanted]
    sizes = {len(column) for column in found}
    if len(sizes) > 1:
        raise DataError(f"columns of {where} have {' and '.join(map(str, sorted(sizes)))} items")
    return One(np.stack(found, 1), labels)


def _column(where: str, column: Any) -> np.ndarray:
    values = np.asarray(column)
    if values.dtype.kind == "O" and not any(isinstance(v, str | bytes) for v in values.flat):
        with suppress(TypeError, ValueError):  # numbers beside None, decimals, ...
            values = values.astype(float)
    if values.dtype.kind not in "biuf":
        first = next((v for v in values.flat if not _is_number(v)), values.dtype)
        raise DataError(f"{where} is no number: {str(first)!r:.40}")
    if values.ndim != 1:
        raise DataError(f"{where} has shape {values.shape}, a number an item is needed")
    return values


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def _row_labels(x: Any) -> np.ndarray | None:
    """The index of a table, where it is one of single values."""
    index = getattr(x, "index", None)
    if index is None or callable(index) or getattr(index, "nlevels", 1) != 1:
        return None
    return np.asarray(index)


def _is_row(x: Any) -> bool:
    """Whether it is one row of a table: values with their names."""
    return hasattr(x, "index") and hasattr(x, "array") and getattr(x, "ndim", 0) == 1


# Arrays with dimensions -----------------------------------------------------------------------


def _labelled(where: str, x: Any, spec: ArraySpec, axes: Sequence[Axis]) -> One:
    """An ``xarray.DataArray``: dimensions by name, coordinates and units as the run's."""
    units = str(x.attrs.get("units", ""))
    if units and spec.units and units != spec.units and not _each_its_own(spec.units):
        raise DataError(f"units of {where} are {units!r}, the run was trained on {spec.units!r}")
    own = [axis.name for axis in axes if axis.told]
    dims = [str(d) for d in x.dims]
    if all(name == f"dim_{i}" for i, name in enumerate(dims)):  # nobody has named them
        return _array(where, x.values, spec)
    if len(own) < len(axes):  # axes without names are taken in their order
        named = len(dims) - len(axes)
        if named not in (0, 1):
            raise DataError(
                f"{where} has the dimensions {_list(dims)}, an item has {len(axes)} axes"
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
                f"{where} has the dimensions {_list(dims)}; those of an item of the run are "
                f"{_list(own)}, and one more may count items"
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
            told = Axis(axis.name, theirs, str(x.coords[name].attrs.get("units", axis.units)))
            places = order_of(where, told, axis)
            if places is not None:
                values = values.take(places, lead + i)
    labels = None if single or order[0] not in x.coords else np.asarray(x.coords[order[0]])
    return One(values[None] if single else values, labels, single)


def _each_its_own(units: str) -> bool:
    """Whether units are those of several quantities: ``t [K], z [m]``."""
    return "[" in units


# Plain arrays ---------------------------------------------------------------------------------


def _array(where: str, x: Any, spec: ArraySpec) -> One:
    if isinstance(x, torch.Tensor):
        host = x.detach().cpu()
        x = (host.float() if host.dtype in (torch.bfloat16, torch.float16) else host).numpy()
    try:
        values = np.asarray(x)
    except ValueError as e:  # rows of different lengths
        raise DataError(f"{where} is no array of numbers: {e}") from None
    if values.dtype.kind not in "biuf":
        raise DataError(f"{where} is {values.dtype}, the run takes numbers: {type(x).__name__}")
    single = values.shape == tuple(spec.shape)
    return One(values[None] if single else values, None, single)


def _check_shape(where: str, x: np.ndarray, spec: ArraySpec) -> None:
    if x.ndim == 0 or x.shape[1:] != tuple(spec.shape):
        raise DataError(
            f"{where} has shape {x.shape}, the run takes (items, {', '.join(map(str, spec.shape))})"
            if spec.shape
            else f"{where} has shape {x.shape}, the run takes one number an item"
        )
    if len(x) == 0:
        raise DataError(f"{where} has no items")


def _typed(where: str, x: np.ndarray, spec: ArraySpec) -> np.ndarray:
    """In the type of the run's dataset, which holds the same numbers."""
    kind = np.dtype(spec.dtype)
    if x.dtype.kind == "f" and not np.isfinite(x).all():
        item = np.argwhere(~np.isfinite(x))[0]
        at = tuple(int(i) for i in item[1:])
        raise DataError(
            f"{where}: item {int(item[0])} has {x[tuple(item)]} at {at}, numbers are needed"
        )
    if kind.kind in "iub":
        low, high = (0, 1) if kind.kind == "b" else (np.iinfo(kind).min, np.iinfo(kind).max)
        wrong = (x < low) | (x > high) | (x != np.floor(x)) if x.dtype.kind != "b" else None
        if wrong is not None and wrong.any():
            value = x[tuple(np.argwhere(wrong)[0])]
            raise DataError(
                f"{where} holds {value:g}, the run was trained on {kind.name}: whole numbers from "
                f"{low} to {high}"
            )
    with np.errstate(over="ignore"):
        typed = np.ascontiguousarray(x, kind)
    if kind.kind == "f" and not np.isfinite(typed).all():
        raise DataError(f"{where} holds {np.abs(x).max():g}, which is too large for {kind.name}")
    return typed


def _list(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
