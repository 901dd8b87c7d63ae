"""Encode a table like that of an earlier dataset, for a network that was trained on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hpcsamp.data.manifest import Manifest, read_manifest
from hpcsamp.errors import UsageError
from hpcsamp.ingest.encoding import Encoded, encoded_of
from hpcsamp.ingest.table_targets import Wanted, columns_of


@dataclass(frozen=True)
class Like:
    """Encoding of the table of an earlier dataset.

    Attributes
    ----------
    features
        Encoded columns, with the categories and means of the earlier dataset.
    targets
        Columns and tasks of the targets.
    units
        Units by column.
    """

    features: list[Encoded]
    targets: list[Wanted]
    units: dict[str, str]


def read_like(folder: Path, targets: Sequence[str], features: Sequence[str]) -> Like:
    """Read the encoding of the table that a dataset was made from.

    Parameters
    ----------
    folder
        Folder of the dataset.
    targets, features
        Columns that the user named in addition.

    Raises
    ------
    UsageError
        If it was not made from a table, or the user named other columns.
    """
    manifest: Manifest = read_manifest(folder)
    made = manifest.source.get("preparation")
    roles = manifest.targets_by_name
    if not isinstance(made, dict) or not ({"y"} == set(roles) or isinstance(made["targets"], dict)):
        raise UsageError(f"--like {folder}: the dataset was not made from a table by this version")
    own = {"y": made["targets"]} if isinstance(made["targets"], list) else made["targets"]
    columns = [str(column) for of in own.values() for column in of]
    asked = [column for of in columns_of(columns, targets).values() for column in of]
    if features or (targets and asked != columns):
        raise UsageError(
            f"--like {folder} defines the columns, and its targets are {', '.join(columns)}; "
            "leave out --feature and other targets"
        )
    units: dict[str, str] = {}
    for spec in manifest.arrays.values():
        units |= {name: u for name, u in zip(spec.names, spec.row_units, strict=False) if u}
    wanted = [
        Wanted(name, list(of), roles[name].task, roles[name].class_names, len(own) == 1)  # type: ignore[arg-type]
        for name, of in own.items()
    ]
    return Like([encoded_of(f) for f in made["features"]], wanted, units)
