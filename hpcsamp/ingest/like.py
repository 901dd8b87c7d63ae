"""Prepare a table like that of an earlier dataset, for a network that was trained on it."""

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
    """How an earlier set was made.

    Attributes
    ----------
    features
        What became of its columns, with the categories and means that were found then.
    targets
        Their columns, and what they are.
    units
        By column.
    """

    features: list[Encoded]
    targets: list[Wanted]
    units: dict[str, str]


def read_like(folder: Path, targets: Sequence[str], features: Sequence[str]) -> Like:
    """How the table of a dataset was prepared.

    Parameters
    ----------
    folder
        The dataset.
    targets, features
        What was asked for, too.

    Raises
    ------
    UsageError
        If it was not made from a table, or other columns were asked for.
    """
    manifest: Manifest = read_manifest(folder)
    told = manifest.source.get("preparation")
    roles = manifest.targets_by_name
    if not isinstance(told, dict) or not ({"y"} == set(roles) or isinstance(told["targets"], dict)):
        raise UsageError(f"--like {folder}: was not made from a table by this version of hpcsamp")
    own = {"y": told["targets"]} if isinstance(told["targets"], list) else told["targets"]
    columns = [str(column) for of in own.values() for column in of]
    asked = [column for of in columns_of(columns, targets).values() for column in of]
    if features or (targets and asked != columns):
        raise UsageError(
            f"--like {folder} tells the columns, and its targets {', '.join(columns)}; leave "
            "--feature out, and other targets"
        )
    units: dict[str, str] = {}
    for spec in manifest.arrays.values():
        units |= {name: u for name, u in zip(spec.names, spec.row_units, strict=False) if u}
    wanted = [
        Wanted(name, list(of), roles[name].task, roles[name].class_names, len(own) == 1)  # type: ignore[arg-type]
        for name, of in own.items()
    ]
    return Like([encoded_of(f) for f in told["features"]], wanted, units)
