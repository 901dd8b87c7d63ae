"""Read and write the description of the training set in the run folder, for predictions.

``data.json`` contains the manifest without its shards, and names and units of the axes of an item.
With it, a run can be evaluated on another dataset and can predict arrays after its own dataset
folder was removed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from hpcsamp.config import RunConfig
from hpcsamp.data import Dataset
from hpcsamp.data.manifest import Manifest, read_manifest
from hpcsamp.errors import DataError
from hpcsamp.run.folder import RunFolder
from hpcsamp.tasks.coordinates import Axis, read_axes

NAME = "data.json"


@dataclass(frozen=True)
class Trained:
    """Description of a training set.

    Attributes
    ----------
    path
        Path of the dataset at the time of training.
    manifest
        Manifest of the dataset; without shards and items if it was read from a run folder.
    axes
        Axes of an item of each array.
    """

    path: Path
    manifest: Manifest
    axes: Mapping[str, list[Axis]]

    @classmethod
    def of(cls, path: str | Path, manifest: Manifest | None = None) -> Trained:
        """Describe a dataset folder.

        Raises
        ------
        DataError
            If it cannot be read.
        """
        found = read_manifest(path) if manifest is None else manifest
        axes = {name: read_axes(Path(path), found, name) for name in found.arrays}
        return cls(Path(path), found, axes)

    @classmethod
    def read(cls, folder: RunFolder, config: RunConfig) -> Trained:
        """Read the description from a run folder; from the dataset folder if the run is older.

        Raises
        ------
        DataError
            If the file is damaged, or neither the file nor the dataset folder exists.
        """
        if not (folder.path / NAME).is_file():
            return cls.of(config.data.path)
        table = folder.read_json(NAME)
        try:
            return cls(
                Path(table["path"]),
                Manifest.model_validate(table["manifest"]),
                {name: [_axis(a) for a in axes] for name, axes in table["axes"].items()},
            )
        except (ValidationError, KeyError, TypeError, ValueError) as e:
            raise DataError(f"{folder.path / NAME} cannot be used: {type(e).__name__}") from e

    def title(self, target: str) -> str:
        """Name of a target for messages: its column, if it is a single column of a table."""
        names = self.manifest.arrays[target].names
        return names[0] if len(names) == 1 else target

    def keep(self, folder: RunFolder) -> None:
        """Write the description to a run folder."""
        bare = self.manifest.model_copy(
            update={"shards": [], "splits": dict.fromkeys(self.manifest.splits, 0)}
        )
        folder.write_json(
            NAME,
            {
                "path": str(self.path.absolute()),
                "manifest": bare.model_dump(mode="json", exclude_defaults=True),
                "axes": {name: [_table(a) for a in axes] for name, axes in self.axes.items()},
            },
        )

    def items(self, count: int) -> Dataset:
        """Make a split of ``count`` items without files."""
        manifest = self.manifest.model_copy(update={"shards": [], "splits": {"items": count}})
        return Dataset(self.path, "items", manifest)


def _table(axis: Axis) -> dict[str, Any]:
    values = axis.values
    kind = "O" if axis.named else values.dtype.str
    return {
        "name": axis.name, "values": values.tolist(), "type": kind, "units": axis.units,
        "told": axis.told,
    }  # fmt: skip


def _axis(table: dict[str, Any]) -> Axis:
    values = np.asarray(table["values"], np.dtype(table["type"]))
    return Axis(table["name"], values, table["units"], table["told"])
