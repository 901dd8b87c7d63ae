"""Encode tables with dates and categories in the same way as the training set of a run.

A dataset made from a table records how its columns were encoded. A table with the same columns is
encoded alike: categories as in training, dates in UTC, missing numbers as the training mean.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any

import numpy as np

from hpcsamp.errors import DataError
from hpcsamp.ingest.encoding import Category, Date, Encoded, Number, encoded_of
from hpcsamp.ingest.in_python import columns_of, listed, numbers_of, plain
from hpcsamp.run.trained import Trained

FILLED = ("rows with missing values: mean", "rows with missing values: keep")
"""Notes of datasets in which a missing category is encoded as none of the categories."""


def encode(x: Any, trained: Trained) -> dict[str, dict[str, np.ndarray]] | None:
    """Encode a table that has the columns of the training set; return each input by column.

    Returns None if nothing is to be encoded: the columns of the table are those of the inputs, or
    the training set had no encoded columns.

    Parameters
    ----------
    x
        Table.

    Raises
    ------
    DataError
        If columns are missing or unknown, or a value cannot be encoded.
    """
    columns, features = columns_of(x), features_of(trained)
    if columns is None or features is None:
        return None
    given = {str(name): column for name, column in columns.items()}
    own = {f.column: f for f in features}
    plain_names = {name for f in features for name in f.names}
    raw = any(f.column in given and _is_raw(given[f.column], f) for f in features)
    if not raw or (plain_names != own.keys() and plain_names <= given.keys()):
        return None
    missing = [name for name in own if name not in given]
    unknown = [name for name in given if name not in own]
    if missing or unknown:
        parts = [f"lacks {listed(missing)}"] * bool(missing)
        parts += [f"has {listed(unknown)}, which the run was not trained on"] * bool(unknown)
        raise DataError(
            f"x {' and '.join(parts)}; the columns of the run are {listed(list(own))}, in any order"
        )
    if not all(len(column) for column in given.values()):
        raise DataError("x has no items")
    none = any(note in FILLED for note in trained.manifest.transforms)
    made: dict[str, np.ndarray] = {}
    for name, feature in own.items():
        where = f"column {name} of x"
        values = _values(where, given[name], feature)
        if isinstance(feature, Category) and not none and feature.missing(values).any():
            raise DataError(f"{where}: a category is missing")
        made |= dict(zip(feature.names, feature.encode(values, "x").T, strict=True))
    return {
        name: {str(of): made[str(of)] for of in trained.axes[name][0].values}
        for name in trained.manifest.kinds
    }


def features_of(trained: Trained) -> list[Encoded] | None:
    """Encodings of the columns of the training set; None if a table cannot be encoded alike."""
    preparation = trained.manifest.source.get("preparation")
    if not isinstance(preparation, Mapping):
        return None
    of = preparation.get("features", [])
    if any(isinstance(f, Mapping) and {"tokens", "width"} & f.keys() for f in of):
        return None
    features = [encoded_of(f) for f in of]
    names = {name for f in features for name in f.names}
    for name in trained.manifest.kinds:
        axes = trained.axes[name]
        if len(axes) != 1 or not axes[0].named or not {*map(str, axes[0].values)} <= names:
            return None
    return features


def _is_raw(column: Any, feature: Encoded) -> bool:
    """Whether a column holds the original values, which differ from the encoded numbers."""
    if isinstance(feature, Category) and feature.ids:  # ids keep the name of the column of words
        words = np.asarray(column)
        return feature.words is not None and words.dtype.kind not in "biuf"
    return type(feature) is not Number


def _values(where: str, column: Any, feature: Encoded) -> np.ndarray:
    if isinstance(feature, Date):
        return _times(where, np.asarray(column))
    if not isinstance(feature, Category):
        return numbers_of(where, column)
    values = np.asarray(column)
    if values.dtype.kind == "O":
        values = plain(values)
    if values.dtype.kind in "SU":
        values = values.astype(str).astype(object)
    if values.dtype.kind == "O":
        for value in values:
            if not isinstance(value, str) and not _is_missing(value):
                raise DataError(f"{where} must hold words, but has {value!r}")
        return np.asarray([v if isinstance(v, str) else None for v in values], object)
    return values


def _is_missing(value: Any) -> bool:
    """Whether a value marks a missing word."""
    return value is None or type(value).__name__ == "NAType" or value != value


def _times(where: str, values: np.ndarray) -> np.ndarray:
    """Convert times to UTC, ``datetime64[ns]``."""
    if values.dtype.kind == "M":
        return values.astype("datetime64[ns]")
    found = []
    for value in values.tolist():
        try:
            time = dt.datetime.fromisoformat(value) if isinstance(value, str) else value
            if time.tzinfo is not None:
                time = time.astimezone(dt.UTC).replace(tzinfo=None)
            found.append(np.datetime64(time, "ns"))
        except (AttributeError, TypeError, ValueError):
            raise DataError(
                f"{where}: {str(value)!r:.40} is not an ISO 8601 time; convert the column first, "
                f"e.g. by pandas.to_datetime(column, format=...)"
            ) from None
    return np.asarray(found, "datetime64[ns]")
