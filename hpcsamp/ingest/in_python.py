"""Convert Python objects to arrays of numbers: tables, columns, labelled and masked arrays.

Tables and labelled arrays are recognised by their attributes, so that pandas and xarray need not be
imported or installed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from hpcsamp.errors import DataError
from hpcsamp.spelling import joined

EXACT = 2**53
"""All whole numbers up to this one are exact in float64."""

SHOWN = 5
"""Largest number of names that a message lists."""


def columns_of(x: Any) -> Mapping[Any, Any] | None:
    """Return the columns of a table by name, or None if the object is not a table.

    Raises
    ------
    DataError
        If several columns have the same name.
    """
    if isinstance(x, Mapping) and not hasattr(x, "data_vars"):
        return x
    if isinstance(x, np.ndarray) and x.dtype.names:
        return {name: x[name] for name in x.dtype.names}
    if hasattr(x, "data_vars"):
        return {name: x[name] for name in x.data_vars}
    names = getattr(x, "column_names", None)  # arrow
    if names is None:
        names = getattr(x, "columns", None)  # pandas, polars
    if names is None or isinstance(x, np.ndarray) or hasattr(x, "detach"):
        return None
    names = list(names)
    twice = sorted({str(n) for n in names if names.count(n) > 1})
    if twice:
        raise DataError(f"several columns have the name {', '.join(twice[:SHOWN])}")
    return {name: x[name] for name in names}


def names_of(x: Any) -> tuple[str, ...]:
    """Return the column names of a table or labelled array ``(n, columns)``; empty if it has none.

    Raises
    ------
    DataError
        If several columns have the same name.
    """
    if isinstance(x, Mapping) and not hasattr(x, "data_vars"):
        return ()
    if hasattr(x, "dims") and hasattr(x, "coords") and not hasattr(x, "data_vars"):
        if len(x.dims) != 2 or x.dims[1] not in x.coords:
            return ()
        labels = np.asarray(x.coords[x.dims[1]])
        return tuple(map(str, labels.tolist())) if labels.dtype.kind in "OSU" else ()
    return tuple(map(str, columns_of(x) or ()))


def numbers_of(where: str, column: Any) -> np.ndarray:
    """Convert a column to numbers, shape ``(n,)``; missing values become NaN.

    Raises
    ------
    DataError
        If it has values that are not numbers; the message begins with ``where``.
    """
    values = np.asarray(unmasked(where, column))
    if values.dtype.kind == "O":
        values = plain(values)
    if values.dtype.kind not in "biuf":
        first = next((v for v in values.flat if not _is_number(v)), None)
        of = "" if isinstance(first, str | bytes) else f"{type(first).__name__} "
        shown = values.dtype if first is None else f"{of}{str(first)!r:.40}"
        raise DataError(f"{where} is not a number: {shown}")
    if values.ndim != 1:
        raise DataError(f"{where} has shape {values.shape}; one number for each item is needed")
    return values


def plain(values: np.ndarray) -> np.ndarray:
    """Convert an array of objects to bools, whole numbers or floats if all objects are numbers.

    ``None`` and other markers of missing values become NaN. Arrays of words are returned unchanged.
    """
    kinds = {type(v) for v in values.flat}
    if any(issubclass(kind, str | bytes) for kind in kinds):
        return values
    for of, made in ((bool | np.bool_, bool), (int | np.integer, np.int64)):
        if kinds and all(issubclass(kind, of) for kind in kinds):
            with suppress(OverflowError):
                return values.astype(made)
    if any(kind.__name__ == "NAType" for kind in kinds):
        lacking = np.asarray([type(v).__name__ == "NAType" for v in values.flat], bool)
        values = np.where(lacking.reshape(values.shape), np.nan, values)
    with suppress(TypeError, ValueError):  # numbers mixed with None, decimals, ...
        return values.astype(np.float64)
    return values


def table_of(where: str, columns: Mapping[Any, Any]) -> np.ndarray:
    """Stack columns of numbers into one array, ``(n, columns)``.

    Raises
    ------
    DataError
        If a column has values that are not numbers, or a different length; the message names it.
    """
    found = {name: numbers_of(f"column {name} of {where}", c) for name, c in columns.items()}
    sizes = sorted({len(column) for column in found.values()})
    if len(sizes) > 1:
        raise DataError(f"columns of {where} have unequal lengths: {' and '.join(map(str, sizes))}")
    if not found:
        return np.empty((0, 0))
    table = np.stack(list(found.values()), 1)
    for name, column in found.items():
        if table.dtype.kind == "f" and column.dtype.kind in "iu" and column.size:
            top = max(abs(int(column.min())), abs(int(column.max())))
            if top > EXACT:
                raise DataError(
                    f"column {name} of {where}: {top} is above 2**53, where whole numbers lose "
                    "digits when stored with floats; subtract an offset"
                )
    return table


def unmasked(where: str, x: Any) -> Any:
    """Return the values of a masked array without masked values; other objects are unchanged.

    Raises
    ------
    DataError
        If values are masked, because values under a mask have no meaning.
    """
    if isinstance(x, np.ma.MaskedArray):
        hidden = int(np.ma.count_masked(x))
        if hidden:
            raise DataError(
                f"{where} is a masked array in which {hidden} of {x.size} values are masked"
            )
        return x.data
    return x


def row_labels(x: Any) -> np.ndarray | None:
    """Return the index of a table or column, or None if it has none or a MultiIndex."""
    index = getattr(x, "index", None)
    if index is None or callable(index) or getattr(index, "nlevels", 1) != 1:
        return None
    return np.asarray(index)


def check_rows(x: Any, y: Any, where: str) -> None:
    """Refuse a table and a column whose rows have the same index in different orders.

    Raises
    ------
    DataError
        If the orders differ; the message names the first row that differs.
    """
    one, other = row_labels(x), row_labels(y)
    if one is None or other is None or len(one) != len(other):
        return
    differ = np.flatnonzero(one != other)
    if len(differ) and sorted(map(str, one.tolist())) == sorted(map(str, other.tolist())):
        at = int(differ[0])
        raise DataError(
            f"x and y of {where} have the same rows in different orders: row {at} is {one[at]} in "
            f"x and {other[at]} in y; sort both the same way"
        )


def in_order(values: np.ndarray, names: Sequence[str], wanted: Sequence[str], where: str) -> Any:
    """Reorder columns as in ``wanted``.

    Raises
    ------
    DataError
        If the names of the columns differ.
    """
    if tuple(names) == tuple(wanted) or not names or not wanted:
        return values
    if sorted(names) != sorted(wanted):
        unmatched = [n for n in names if n not in wanted] or [n for n in wanted if n not in names]
        raise DataError(
            f"{where} has the columns {listed(names)}, but train has {listed(wanted)}: "
            f"{unmatched[0]} is not in both"
        )
    return values[:, [names.index(n) for n in wanted]]


def listed(names: Sequence[str]) -> str:
    """Join names for a message; long lists are shortened."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return joined(names[:SHOWN]) + more


def _is_number(value: Any) -> bool:
    if isinstance(value, str | bytes):
        return False
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True
