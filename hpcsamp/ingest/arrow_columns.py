"""Convert Arrow columns to NumPy arrays."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from hpcsamp.errors import DataError
from hpcsamp.ingest.encoding import as_words
from hpcsamp.ingest.table import Role
from hpcsamp.ingest.times import Times

RAGGED = (
    "pad them to one length, or pass them as lists of arrays to hpcsamp.ingest.named.from_named, "
    "which pads sequences and makes their mask"
)
"""Advice for lists of different lengths, for messages."""


def column_of(values: Any, role: Role, where: str) -> np.ndarray:
    """Convert an Arrow array to the form that :meth:`hpcsamp.ingest.table.Table.read` returns.

    Parameters
    ----------
    values
        ``pyarrow.ChunkedArray`` or ``pyarrow.Array``.
    role
        Role of the column.
    where
        Beginning of messages: file and column.

    Raises
    ------
    DataError
        If its type is not numbers, words, times or images, or lists have different lengths.
    """
    import pyarrow as pa

    try:
        found = _column(values, where)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OverflowError) as e:
        raise DataError(f"{where}: {str(e).splitlines()[0]}") from None
    if role == "time" and found.dtype.kind == "O":
        times = Times(where)
        cells = [
            times.read("" if cell is None else cell, at, "")
            for at, cell in enumerate(found.tolist())
        ]
        return np.asarray(cells, np.int64).view("datetime64[ns]")
    if role == "text" and found.dtype.kind in "biuf":
        return as_words(found).astype(object)
    return found


def _column(values: Any, where: str) -> np.ndarray:
    import pyarrow as pa

    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
        if isinstance(values, pa.ChunkedArray):  # chunks of some types are not combined
            values = pa.concat_arrays(values.chunks)
    kind = values.type
    if isinstance(kind, pa.BaseExtensionType):
        return _column(values.storage, where)
    if pa.types.is_dictionary(kind):
        return _column(values.dictionary_decode(), where)
    if pa.types.is_null(kind):
        return np.full(len(values), np.nan)
    if pa.types.is_boolean(kind):
        values, kind = values.cast(pa.uint8()), pa.uint8()
    if pa.types.is_decimal(kind):
        values, kind = values.cast(pa.float64()), pa.float64()
    if pa.types.is_integer(kind):
        if values.null_count:
            values = values.cast(pa.float64())  # raises if digits would be lost
        return values.to_numpy(zero_copy_only=False)
    if pa.types.is_floating(kind):
        return values.to_numpy(zero_copy_only=False)
    if pa.types.is_date(kind):
        values, kind = values.cast(pa.timestamp("s")), pa.timestamp("s")
    if pa.types.is_timestamp(kind):  # times with a zone are stored in UTC
        return values.cast(pa.timestamp("ns", kind.tz)).to_numpy(zero_copy_only=False)
    if pa.types.is_duration(kind):
        seconds = values.cast(pa.duration("ns")).to_numpy(zero_copy_only=False)
        return np.where(np.isnat(seconds), np.nan, seconds / np.timedelta64(1, "s"))
    if is_text(kind):
        return np.asarray([*values.to_pylist(), None], object)[:-1]
    if is_list(kind):
        return _lists(values, where)
    if is_bytes(kind):
        return np.asarray([*values.to_pylist(), None], object)[:-1]
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        return np.asarray([*values.field("bytes").to_pylist(), None], object)[:-1]
    raise DataError(f"{where}: type {kind} is not numeric; choose other columns with --feature")


def is_text(kind: Any) -> bool:
    """Whether a type is text."""
    import pyarrow as pa

    view = getattr(pa.types, "is_string_view", lambda kind: False)
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or view(kind)


def is_list(kind: Any) -> bool:
    """Whether a type is a list."""
    import pyarrow as pa

    fixed = pa.types.is_fixed_size_list(kind)
    return fixed or pa.types.is_list(kind) or pa.types.is_large_list(kind)


def is_bytes(kind: Any) -> bool:
    """Whether a type is bytes, such as encoded images."""
    import pyarrow as pa

    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def is_whole(kind: Any) -> bool:
    """Whether a type is integer or boolean."""
    import pyarrow as pa

    return pa.types.is_integer(kind) or pa.types.is_boolean(kind)


def is_picture(kind: Any) -> bool:
    """Whether a type is encoded images."""
    import pyarrow as pa

    if pa.types.is_struct(kind):
        at = kind.get_field_index("bytes")
        return at >= 0 and is_bytes(kind.field(at).type)
    return is_bytes(kind)


def _lists(values: Any, where: str) -> np.ndarray:
    """Convert lists of equal lengths to one array, ``(rows, length, ...)``."""
    import pyarrow.compute as pc

    if values.null_count:
        at = int(np.flatnonzero(values.is_null().to_numpy(zero_copy_only=False))[0])
        raise DataError(f"{where}: the list in row {at} of the piece is missing")
    lengths = pc.list_value_length(values).to_numpy(zero_copy_only=False)
    if len(lengths) and (lengths != lengths[0]).any():
        at = int(np.flatnonzero(lengths != lengths[0])[0])
        raise DataError(
            f"{where}: lists have different lengths: {lengths[0]} and, {at} rows later, "
            f"{lengths[at]}; {RAGGED}"
        )
    inner = _column(values.flatten(), where)
    if inner.dtype.kind not in "biuf":
        raise DataError(f"{where}: lists of {values.type.value_type} are not numeric")
    return inner.reshape(len(values), int(lengths[0]) if len(lengths) else 0, *inner.shape[1:])


def features_of(schema: Any) -> dict[str, Any]:
    """Return the column features that HuggingFace's datasets stored in a file; empty if none."""
    raw = (schema.metadata or {}).get(b"huggingface")
    try:
        found = json.loads(raw)["info"]["features"] if raw else {}
    except (ValueError, KeyError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


def index_of(schema: Any) -> list[str]:
    """Return the columns that pandas stored as the index of a table."""
    raw = (schema.metadata or {}).get(b"pandas")
    try:
        found = json.loads(raw)["index_columns"] if raw else []
    except (ValueError, KeyError, TypeError):
        return []
    return [name for name in found if isinstance(name, str)]
