"""Predict the rows of a csv file and write a copy of the file with predictions as columns."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from hpcsamp.errors import DataError, UsageError
from hpcsamp.files import whole
from hpcsamp.ingest.numbers import Notation
from hpcsamp.ingest.tables import CsvTable, check_delimiter, text_of
from hpcsamp.prediction.encoded import FILLED, features_of
from hpcsamp.prediction.predicting import Predicting
from hpcsamp.run.trained import Trained
from hpcsamp.spelling import joined

MOST = 1000
"""Largest number of columns of predictions."""

SQUARED = {"total", "aleatoric", "epistemic"}
"""Variances of an item, which are left out if the standard deviations of its values are written."""

SINGULAR = {"quantiles": "quantile", "probabilities": "probability", "samples": "sample"}
"""First part of the names of columns, by the name of their array."""


@dataclass(frozen=True)
class Form:
    """Notation of a csv file; see :class:`~hpcsamp.ingest.tables.CsvTable`."""

    delimiter: str = ","
    notation: Notation = field(default_factory=Notation)
    date_format: str | None = None


def form_of(
    trained: Trained,
    delimiter: str | None = None,
    decimal: str | None = None,
    thousands: str = "",
    date_format: str | None = None,
) -> Form:
    """Return the notation of a csv file: as requested, or that of the training set's table."""
    of = trained.manifest.source
    notation = Notation(decimal or of.get("decimal"), thousands or of.get("thousands", ""))
    return Form(
        delimiter or of.get("delimiter", ","), notation, date_format or of.get("date_format")
    )


def predict_csv(
    posterior: Predicting,
    path: Path,
    out: Path,
    form: Form,
    *,
    quantiles: Sequence[float] | None = None,
    keep_samples: bool = False,
) -> dict[str, Any]:
    """Write a copy of a csv file with additional columns for the predictions of each row.

    Parameters
    ----------
    posterior
        Posterior of a run whose training set was made from a table.
    path
        Table with the features of the run, in any order and with further columns.
    out
        File to write, in the same notation.
    quantiles, keep_samples
        As for :meth:`~hpcsamp.prediction.predicting.Predicting.predict`.

    Returns
    -------
    dict
        Number of ``items``, names of the new ``columns`` and of ``unused`` columns, and by column
        the number of ``filled`` cells: missing numbers become the training mean, missing
        categories are encoded as none of the categories.

    Raises
    ------
    DataError
        If the table lacks a feature, or a cell cannot be read.
    UsageError
        If the run was not trained on a table, an item has too many predicted values for columns, or
        the table already has a column with the name of a new one.
    """
    sign = check_delimiter(form.delimiter)
    features = features_of(posterior.trained)
    if features is None:
        raise UsageError(
            f"the training set of {posterior.restored.folder.path} was not made from a table of "
            f"numbers, dates and categories: predict a dataset with --data DIR, or arrays in Python"
        )
    gaps = any(note in FILLED for note in posterior.trained.manifest.transforms)
    table = CsvTable(path, sign, form.notation, form.date_format, gaps)
    missing = [f.column for f in features if f.column not in table.names]
    if missing:
        raise DataError(
            f"{path} lacks {joined(missing)}; the features of the run are "
            f"{joined(f.column for f in features)}"
        )
    table.prepare({f.column: f.role for f in features})
    x = table.read([f.column for f in features], np.arange(table.count))
    found = posterior.predict(x, quantiles=quantiles, keep_samples=keep_samples)
    columns = columns_of(found)
    for name in columns:
        if name in table.names:
            raise UsageError(
                f"{path} already has a column {name!r}, which is the name of a column of "
                f"predictions; rename it"
            )
    try:
        with whole(out) as part, part.open("w", newline="", encoding="utf-8") as f:
            f.writelines(_lines(path, sign, form.notation.point, len(table.names), columns))
    except OSError as e:
        raise UsageError(f"cannot write {out}: {e.strerror or e}") from e
    used = {f.column for f in features}
    gone = {f.column: int(f.missing(x[f.column]).sum()) for f in features}
    return {
        "items": table.count,
        "columns": list(columns),
        "unused": [name for name in table.names if name not in used],
        "filled": {name: count for name, count in gone.items() if count},
        "samples": found.attrs["samples"],
        "checkpoint": found.attrs["checkpoint"],
    }


def columns_of(found: xr.Dataset) -> dict[str, np.ndarray]:
    """Return predictions as columns, one for each value of an item.

    An array with further axes becomes a column for each of their entries, such as
    ``quantile_0.05`` or ``mean_load``.

    Raises
    ------
    UsageError
        If there are more than :data:`MOST` columns.
    """
    arrays = {str(name): array for name, array in found.data_vars.items()}
    for name in list(arrays):
        of, _, what = name.rpartition("/")  # several targets have names before the slash
        if what in SQUARED and _name(of, "mean") in arrays:
            del arrays[name]
    count = sum(int(np.prod(a.shape[1:], dtype=np.int64)) for a in arrays.values())
    if count > MOST:
        raise UsageError(
            f"predictions of an item have {count:,} values, but a csv file may have at most "
            f"{MOST:,} columns of them: write HDF5 with --data DIR --out FILE.h5"
        )
    made: dict[str, np.ndarray] = {}
    for name, array in arrays.items():
        of, _, what = name.rpartition("/")
        axes = [_labels(array, str(dim)) for dim in array.dims[1:]]
        values = array.values.reshape(len(array), -1)
        if what == "probabilities" and array.ndim == 2 and "class" in array.dims:
            made[_name(of, "predicted")] = np.asarray(axes[0], object)[values.argmax(1)]
        for labels, column in zip(product(*axes), values.T, strict=True):
            made["_".join([_name(of, SINGULAR.get(what, what)), *labels])] = column
    return made


def _name(target: str, what: str) -> str:
    return f"{target}/{what}" if target else what


def _labels(array: xr.DataArray, dim: str) -> list[str]:
    if dim not in array.coords:
        return [str(i) for i in range(array.sizes[dim])]
    return [str(v) if isinstance(v, str) else f"{v:g}" for v in array[dim].values.tolist()]


def _lines(
    path: Path, delimiter: str, point: str, width: int, columns: Mapping[str, np.ndarray]
) -> Iterator[str]:
    """Yield the lines of a table with columns appended."""
    line = io.StringIO()
    writer = csv.writer(line, delimiter=delimiter, lineterminator="\n")
    texts = zip(*([_text(v, point) for v in c] for c in columns.values()), strict=True)
    with text_of(path, delimiter) as rows:
        header = True
        for cells in rows:
            if not header and not cells:
                continue
            new = columns if header else next(texts)
            writer.writerow([*cells[:width], *new])
            yield line.getvalue()
            line.seek(0)
            line.truncate()
            header = False


def _text(value: Any, point: str) -> str:
    return str(value).replace(".", point) if np.asarray(value).dtype.kind == "f" else str(value)
