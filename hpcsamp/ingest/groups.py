"""Group the columns of a table into inputs: one numeric or id array, or several by name."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hpcsamp.data.manifest import ArraySpec
from hpcsamp.data.roles import Kind
from hpcsamp.errors import DataError
from hpcsamp.ingest.encoding import Category, Encoded
from hpcsamp.ingest.picture_columns import images_of
from hpcsamp.ingest.pictures import Pictures
from hpcsamp.ingest.preparation import units_line
from hpcsamp.ingest.survey import TableSurvey
from hpcsamp.ingest.table import Table
from hpcsamp.ingest.texts import IDS, MASK, Text, TextMask


@dataclass
class ColumnGroup:
    """Columns of a table that become one input.

    Attributes
    ----------
    name
        Name of the array.
    kind
        Kind of the input.
    spec
        Shape and type of the array.
    features
        Encoded columns that it consists of.
    """

    name: str
    kind: Kind
    spec: ArraySpec
    features: list[Encoded]

    def of(
        self,
        values: Mapping[str, np.ndarray],
        rows: np.ndarray,
        table: Table,
        pictures: Pictures,
    ) -> np.ndarray:
        """Return the array of some rows, shape ``(n, *spec.shape)``.

        Raises
        ------
        DataError
            If an image has a different size, or a value cannot be encoded.
        """
        where = f"{table.path}: rows {rows[0]} to {rows[-1]}"
        column = self.features[0].column
        if table.pictures(column):
            found = images_of(values[column], rows, table, pictures)
            if list(found.shape[1:]) != self.spec.shape:
                raise DataError(
                    f"{where}: images have shape {found.shape[1:]}, but others have "
                    f"{tuple(self.spec.shape)}; give --size"
                )
            return found
        found = np.empty((len(rows), sum(len(f.names) for f in self.features)), self.spec.dtype)
        at = 0
        for feature in self.features:
            width = len(feature.names)
            found[:, at : at + width] = feature.encode(values[feature.column], where)
            at += width
        return found.reshape(len(rows), *self.spec.shape)

    def meaning(self) -> dict[str, str]:
        """Describe the meaning of category and token ids, for the manifest."""
        found = {}
        for feature in self.features:
            if isinstance(feature, Text):
                found[f"tokenizer of {feature.column}"] = feature.digest
            if isinstance(feature, Category) and feature.ids and feature.words is not None:
                words = ", ".join(feature.words)
                digest = hashlib.sha256(words.encode()).hexdigest()[:16]
                short = words if len(words) < 200 else f"{len(feature.words)} words, {digest}"
                found[f"ids of {feature.column}"] = short
        return found


def groups_of(
    table: Table,
    encoded: Sequence[Encoded],
    survey: TableSurvey,
    units: Mapping[str, str],
    pictures: Pictures,
    rows: np.ndarray,
) -> list[ColumnGroup]:
    """Group encoded columns into inputs: ``x``, or ``numbers``, ``ids`` and images by column.

    Parameters
    ----------
    table
        Table of train.
    encoded
        Encoded columns.
    survey
        Types and shapes found in the columns.
    units
        Units by column.
    rows
        Rows of train; the first one determines the size of images.
    """
    found: list[ColumnGroup] = []
    numbers, ids = [], []
    for feature in encoded:
        if table.pictures(feature.column):
            column = feature.column
            first = images_of(table.read([column], rows[:1])[column], rows[:1], table, pictures)
            spec = ArraySpec.plan(first.shape[1:], first.dtype)
            found.append(ColumnGroup(column, "numbers", spec, [feature]))
        elif isinstance(feature, Text):
            spec = ArraySpec.plan(
                (feature.length,), "<i8", description=f"tokens of {feature.column}"
            )
            mask = TextMask(feature.column, feature)
            found.append(ColumnGroup(IDS, "ids", spec, [feature]))
            found.append(
                ColumnGroup(MASK, "ids", spec.model_copy(update={"description": ""}), [mask])
            )
        elif isinstance(feature, Category) and feature.ids:
            ids.append(feature)
        else:
            numbers.append(feature)
    if numbers:
        found.append(ColumnGroup("numbers", "numbers", _numbers(numbers, survey, units), numbers))
    if ids:
        names = [f.column for f in ids]
        spec = ArraySpec.plan((len(ids),), "<i8", names=names)
        found.append(ColumnGroup("ids", "ids", spec, list(ids)))
    if len(found) == 1:
        found[0].name = "x"
    return found


def _numbers(
    features: Sequence[Encoded], survey: TableSurvey, units: Mapping[str, str]
) -> ArraySpec:
    names = [name for f in features for name in f.names]
    kind = np.result_type(*(f.kind(survey.kinds[f.column]) for f in features))
    if kind.kind in "biu":
        kind = np.dtype("f4" if kind.itemsize <= 2 else "f8")
    kind = np.dtype("f4") if kind == np.dtype("f2") else kind
    unit_by_name: dict[str, str] = {}
    for feature in features:
        unit_by_name |= feature.units(units.get(feature.column, ""))
    alone = survey.shapes[features[0].column] if len(features) == 1 else ()
    if len(alone) > 1:
        return ArraySpec.plan(alone, kind, units=units.get(features[0].column, ""))
    return ArraySpec.plan((len(names),), kind, names=names, units=units_line(names, unit_by_name))
