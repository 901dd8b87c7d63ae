"""Prepare a table like that of an earlier dataset, for a network that was trained on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hpcsamp.data.manifest import Manifest, read_manifest
from hpcsamp.errors import UsageError
from hpcsamp.ingest.encoding import Encoded, encoded_of
from hpcsamp.names import Task


@dataclass(frozen=True)
class Like:
    """How an earlier set was made.

    Attributes
    ----------
    features
        What became of its columns, with the categories and means that were found then.
    targets
        Columns of ``y``.
    task, class_names
        What they are.
    units
        By column.
    """

    features: list[Encoded]
    targets: list[str]
    task: Task
    class_names: list[str] | None
    units: dict[str, str]


def read_like(folder: Path, targets: Sequence[str], features: Sequence[str]) -> Like:
    """How the table of a dataset was prepared.

    Parameters
    ----------
    folder
        The dataset.
    targets, features
        Columns that were asked for, too.

    Raises
    ------
    UsageError
        If it was not made from a table, or other columns were asked for.
    """
    manifest: Manifest = read_manifest(folder)
    told = manifest.source.get("preparation")
    if not isinstance(told, dict) or "y" not in manifest.arrays:
        raise UsageError(f"--like {folder}: was not made from a table by this version of hpcsamp")
    own = [str(name) for name in told["targets"]]
    if features or (targets and list(targets) != own):
        raise UsageError(
            f"--like {folder} tells the columns, and its targets {', '.join(own)}; leave --feature "
            "out, and other targets"
        )
    units: dict[str, str] = {}
    for spec in manifest.arrays.values():
        units |= {name: u for name, u in zip(spec.names, spec.row_units, strict=False) if u}
    return Like(
        [encoded_of(f) for f in told["features"]],
        own,
        manifest.task,  # type: ignore[arg-type]
        manifest.class_names,
        units,
    )
