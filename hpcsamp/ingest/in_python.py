"""What Python programs hold, as arrays of numbers: tables, columns, labelled and masked arrays.

Nothing is imported for it: a table or a labelled array is known by what it can do, so that pandas
and xarray are needed by those alone who use them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from hpcsamp.errors import DataError

EXACT = 2**53
"""Whole numbers up to this one are exact in float64."""

SHOWN = 5
"""Names that a message lists at most."""


def columns_of(x: Any) -> Mapping[Any, Any] | None:
    """Columns by name of what has some, else None.

    Raises
    ------
    DataError
        If several have the same name.
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
        raise DataError(f"there are several columns of the name {', '.join(twice[:SHOWN])}")
    return {name: x[name] for name in names}


def names_of(x: Any) -> tuple[str, ...]:
    """Names of the columns of a table or of a labelled array ``(n, columns)``; empty without any.

    Raises
    ------
    DataError
        If several have the same name.
    """
    if isinstance(x, Mapping) and not hasattr(x, "data_vars"):
        return ()
    if hasattr(x, "dims") and hasattr(x, "coords") and not hasattr(x, "data_vars"):
        if len(x.dims) != 2 or x.dims[1] not in x.coords:
            return ()
        told = np.asarray(x.coords[x.dims[1]])
        return tuple(map(str, told.tolist())) if told.dtype.kind in "OSU" else ()
    return tuple(map(str, columns_of(x) or ()))


def numbers_of(where: str, column: Any) -> np.ndarray:
    """A column of numbers, shape ``(n,)``; NaN where one is missing.

    Raises
    ------
    DataError
        Beginning with ``where``, if it holds anything else.
    """
    values = np.asarray(unmasked(where, column))
    if values.dtype.kind == "O":
        values = plain(values)
    if values.dtype.kind not in "biuf":
        first = next((v for v in values.flat if not _is_number(v)), None)
        of = "" if isinstance(first, str | bytes) else f"{type(first).__name__} "
        shown = values.dtype if first is None else f"{of}{str(first)!r:.40}"
        raise DataError(f"{where} is no number: {shown}")
    if values.ndim != 1:
        raise DataError(f"{where} has shape {values.shape}, a number an item is needed")
    return values


def plain(values: np.ndarray) -> np.ndarray:
    """An array of objects as numbers, if they are some: bools, whole numbers, or floats.

    ``None`` and other signs for what is missing become NaN; words stay words.
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
    with suppress(TypeError, ValueError):  # numbers beside None, decimals, ...
        return values.astype(np.float64)
    return values


def table_of(where: str, columns: Mapping[Any, Any]) -> np.ndarray:
    """Columns of numbers as one array, ``(n, columns)``.

    Raises
    ------
    DataError
        Naming the column that holds anything else, or is of another length.
    """
    found = {name: numbers_of(f"column {name} of {where}", c) for name, c in columns.items()}
    sizes = sorted({len(column) for column in found.values()})
    if len(sizes) > 1:
        raise DataError(f"columns of {where} have {' and '.join(map(str, sizes))} items")
    if not found:
        return np.empty((0, 0))
    table = np.stack(list(found.values()), 1)
    for name, column in found.items():
        if table.dtype.kind == "f" and column.dtype.kind in "iu" and column.size:
            top = max(abs(int(column.min())), abs(int(column.max())))
            if top > EXACT:
                raise DataError(
                    f"column {name} of {where}: {top} is beyond 2**53, where whole numbers lose "
                    "digits beside floats; subtract an offset"
                )
    return table


def unmasked(where: str, x: Any) -> Any:
    """What is no masked array, or masks nothing.

    Raises
    ------
    DataError
        If values are masked: what lies below the mask stands for nothing.
    """
    if isinstance(x, np.ma.MaskedArray):
        hidden = int(np.ma.count_masked(x))
        if hidden:
            raise DataError(
                f"{where} is a masked array, {hidden} of its {x.size} values are masked"
            )
        return x.data
    return x


def row_labels(x: Any) -> np.ndarray | None:
    """The index of a table or column, where it is one of single values."""
    index = getattr(x, "index", None)
    if index is None or callable(index) or getattr(index, "nlevels", 1) != 1:
        return None
    return np.asarray(index)


def check_rows(x: Any, y: Any, where: str) -> None:
    """Refuse a table and a column with the same rows in another order.

    Raises
    ------
    DataError
        Naming the first row that differs.
    """
    one, other = row_labels(x), row_labels(y)
    if one is None or other is None or len(one) != len(other):
        return
    differ = np.flatnonzero(one != other)
    if len(differ) and sorted(map(str, one.tolist())) == sorted(map(str, other.tolist())):
        at = int(differ[0])
        raise DataError(
            f"x and y of {where} have the same rows in another order: row {at} is {one[at]} in x "
            f"and {other[at]} in y; sort both alike"
        )


def in_order(values: np.ndarray, names: Sequence[str], wanted: Sequence[str], where: str) -> Any:
    """Columns in the order that is wanted.

    Raises
    ------
    DataError
        If there are others.
    """
    if tuple(names) == tuple(wanted) or not names or not wanted:
        return values
    if sorted(names) != sorted(wanted):
        strange = [n for n in names if n not in wanted] or [n for n in wanted if n not in names]
        raise DataError(
            f"{where} has the columns {listed(names)}, those of train are {listed(wanted)}: "
            f"{strange[0]} is not in both"
        )
    return values[:, [names.index(n) for n in wanted]]


def listed(names: Sequence[str]) -> str:
    """Names for a message."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _is_number(value: Any) -> bool:
    if isinstance(value, str | bytes):
        return False
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True
