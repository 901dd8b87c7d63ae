"""What a network and a memory estimate must know of a dataset: the shapes of its items."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hpcsamp.config import RunConfig
from hpcsamp.data import Dataset
from hpcsamp.data.manifest import NAME
from hpcsamp.models import output_size

if TYPE_CHECKING:
    from hpcsamp.ingest import Source


@dataclass(frozen=True)
class Shapes:
    """The items of a dataset, without their numbers.

    Attributes
    ----------
    x, y
        Shapes of an item.
    item_bytes
        Of an item on disk.
    values
        Classes, or values of a target.
    ids
        Whether inputs are ids.
    mean, std
        Of the training targets, in the shape of a target; None for 0 and 1.
    """

    x: tuple[int, ...]
    y: tuple[int, ...]
    item_bytes: int
    values: int
    ids: bool = False
    mean: Any = field(default=None, compare=False, repr=False)
    std: Any = field(default=None, compare=False, repr=False)

    @classmethod
    def of(cls, data: Dataset | Source) -> Shapes:
        """Of a dataset, or of a source that might become one."""
        arrays = data.manifest.arrays if isinstance(data, Dataset) else data.arrays
        x, y = arrays["x"], arrays["y"]
        mean, std = data.y_scale() if isinstance(data, Dataset) else (None, None)
        return cls(
            tuple(x.shape),
            tuple(y.shape),
            x.item_bytes + y.item_bytes,
            output_size(data.task, data.classes, tuple(y.shape)),
            data.inputs == "ids",
            mean,
            std,
        )

    @classmethod
    def described(cls, config: RunConfig, data: str | None = None) -> Shapes:
        """Of the dataset of a configuration, or of the set that it describes if there is none yet.

        Parameters
        ----------
        data
            Another folder than ``data.path``; ``"synthetic"`` for what is described.

        Raises
        ------
        DataError, UsageError
            If there is neither.
        """
        from hpcsamp.run.prepare import SYNTHETIC, source_of

        path = data or config.data.path
        if config.data.synthetic is not None and not Path(path, NAME).is_file():
            if data not in (None, SYNTHETIC):
                Dataset.open(path)  # says what is wrong with it
            return cls.of(source_of(config.data.synthetic))
        with Dataset.open(path) as dataset:
            return cls.of(dataset)

    def scale(self) -> tuple[Any, Any]:
        """Mean and standard deviation of the targets, in the shape of one."""
        return (
            0.0 if self.mean is None else self.mean,
            np.ones(self.y) if self.std is None else self.std,
        )
