"""Shapes of a dataset's items, which networks and memory estimates need to know."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from hpcsamp.config import RunConfig
from hpcsamp.data import Dataset
from hpcsamp.data.manifest import NAME
from hpcsamp.data.roles import Kind, kinds_of, targets_of
from hpcsamp.models import Data
from hpcsamp.tasks import Targets

if TYPE_CHECKING:
    from hpcsamp.ingest import Source


@dataclass(frozen=True)
class DataShapes:
    """Shapes and types of the items of a dataset, without their values.

    Attributes
    ----------
    x, y
        Shapes of an item; by name if there are several inputs or targets.
    item_bytes
        Bytes of an item on disk.
    targets
        Properties of the targets.
    ids
        Whether inputs are ids.
    kinds
        Kind of each of several inputs.
    scales
        Mean and standard deviation of the training targets by name, in the shape of a target;
        0 and 1 if they are unknown.
    """

    x: tuple[int, ...] | Mapping[str, tuple[int, ...]]
    y: tuple[int, ...] | Mapping[str, tuple[int, ...]]
    item_bytes: int
    targets: Targets
    ids: bool = False
    kinds: Mapping[str, Kind] = field(default_factory=dict)
    scales: Mapping[str, tuple[Any, Any]] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def of(cls, data: Dataset | Source) -> DataShapes:
        """Return the shapes of a dataset, or of a source from which one can be made."""
        description = data.manifest if isinstance(data, Dataset) else data
        kinds, targets = kinds_of(description), targets_of(description)
        shapes = {name: tuple(spec.shape) for name, spec in description.arrays.items()}
        several = isinstance(description.inputs, dict)
        return cls(
            {name: shapes[name] for name in kinds} if several else shapes["x"],
            {name: shapes[name] for name in targets} if description.targets else shapes["y"],
            sum(spec.item_bytes for spec in description.arrays.values()),
            Targets.of(description),
            description.inputs == "ids",
            kinds if several else {},
            {name: data.scale(name) for name in targets} if isinstance(data, Dataset) else {},
        )

    def batch(self, items: int, *, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Create inputs of ``items`` items that are all zero; numbers are of type ``dtype``."""
        return Data(self.x, 0, self.ids, self.kinds).batch(items, dtype, device)

    def batch_bytes(self, number: int) -> int:
        """Bytes of the inputs of one item in a batch, with ``number`` bytes per float."""
        size = {"numbers": number, "values": number, "ids": 8, "flags": 1}
        if isinstance(self.x, Mapping):
            return sum(math.prod(s) * size[self.kinds[name]] for name, s in self.x.items())
        return math.prod(self.x) * (8 if self.ids else number)

    @property
    def target_values(self) -> int:
        """Number of values in the targets of an item."""
        shapes = self.y.values() if isinstance(self.y, Mapping) else [self.y]
        return sum(math.prod(shape) for shape in shapes)

    def told(self, between: str) -> str:
        """Format the shape of the inputs."""
        if isinstance(self.x, Mapping):
            parts = (f"{name} {between.join(map(str, s))}" for name, s in self.x.items())
            return ", ".join(parts)
        return between.join(map(str, self.x))

    @classmethod
    def described(cls, config: RunConfig, data: str | None = None) -> DataShapes:
        """Shapes of the configured dataset, or of a synthetic one that does not exist yet.

        Parameters
        ----------
        data
            Folder that replaces ``data.path``; ``"synthetic"`` for the described dataset.

        Raises
        ------
        DataError, UsageError
            If there is neither a dataset nor a description of a synthetic one.
        """
        from hpcsamp.run.prepare import SYNTHETIC, source_of

        path = data or config.data.path
        if config.data.synthetic is not None and not Path(path, NAME).is_file():
            if data not in (None, SYNTHETIC):
                Dataset.open(path)  # raises an error that explains why it cannot be opened
            return cls.of(source_of(config.data.synthetic))
        with Dataset.open(path) as dataset:
            return cls.of(dataset)

    def scale(self, target: str = "y") -> tuple[Any, Any]:
        """Mean and standard deviation of a target, in its shape."""
        shape = self.y[target] if isinstance(self.y, Mapping) else self.y
        return self.scales.get(target, (0.0, np.ones(shape)))
