"""Synthetic data in the shape of the real datasets, for trials without a download.

Each item is a function of (seed, split, item), so any rank can generate any part.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import numpy as np

from hpcsamp.data.manifest import ArraySpec
from hpcsamp.data.shard_writer import Coordinate
from hpcsamp.errors import UsageError
from hpcsamp.ingest.asked import Asked
from hpcsamp.ingest.entsoe import INPUTS, TARGETS, horizons
from hpcsamp.ingest.fields import CHANNELS, VARIABLES, field_coordinates
from hpcsamp.ingest.source import Source
from hpcsamp.names import MADE_UP, Compression
from hpcsamp.streams import Purpose, numpy_generator

FRACTIONS = {"valid": 0.1, "test": 0.1}
SPLITS = {"train": 0, "valid": 1, "test": 2}

LATITUDES, LONGITUDES = 121, 240

Item = tuple[np.ndarray, Any]
"""Input and target of one item."""


@dataclass
class Synthetic(Source):
    """Base class of synthetic datasets; each item is drawn from its own random stream.

    Attributes
    ----------
    seed
        Seed of the data.
    """

    seed: int = 0
    #: Smallest number of latitudes and longitudes of fields; None for data without a grid.
    least_grid: ClassVar[int | None] = None

    @classmethod
    @abstractmethod
    def shapes(cls, grid: tuple[int, int] | None) -> Shapes:
        """Return the shapes of the arrays, on the default grid if ``grid`` is None."""

    @abstractmethod
    def item(self, split: str, item: int) -> Item:
        """Generate one item, a function of its number and the seed."""

    def read(self, split: str, start: int, stop: int) -> Mapping[str, np.ndarray]:
        """See :class:`Source`."""
        items = [self.item(split, item) for item in range(start, stop)]
        found = {
            "x": np.stack([x for x, _ in items]).astype(self.arrays["x"].dtype),
            "y": np.stack([y for _, y in items]).astype(self.arrays["y"].dtype),
        }
        if "time" in self.coords:
            found["time"] = np.arange(start, stop) * 3.0
        return found

    def generator(self, split: str, item: int) -> np.random.Generator:
        """Return the random generator of an item."""
        return numpy_generator(self.seed, Purpose.SYNTHETIC, SPLITS[split], item)


@dataclass(frozen=True)
class Shapes:
    """Arrays of a synthetic dataset: shape, type and units of ``x`` and ``y``, and the task.

    The default ``task`` is classification if there are classes, else regression; ``lead`` is the
    time from input to target of a forecast.
    """

    x: tuple[tuple[int, ...], str, str]
    y: tuple[tuple[int, ...], str, str]
    classes: int | None = None
    task: str | None = None
    class_names: tuple[str, ...] | None = None
    names: tuple[str, ...] = ()
    coords: Mapping[str, Coordinate] = field(default_factory=dict)
    lead: str = ""


class Cifar10(Synthetic):
    """(3, 32, 32) uint8 images of a bright spot in noise; its position is one of 10 classes."""

    shape: ClassVar[tuple[int, ...]] = (3, 32, 32)
    top: ClassVar[int] = 255

    @classmethod
    def shapes(cls, grid: tuple[int, int] | None) -> Shapes:
        """See :class:`Synthetic`."""
        return Shapes((cls.shape, "u1", ""), ((), "<i8", ""), classes=10)

    def item(self, split: str, item: int) -> Item:
        """See :class:`Synthetic`."""
        generator, top = self.generator(split, item), self.top
        _, height, width = self.arrays["x"].shape
        label = generator.integers(10)
        image = generator.integers(0, top // 2, self.arrays["x"].shape)
        row, column = divmod(int(label), 4)
        image[:, row * height // 4 : (row + 1) * height // 4][
            ..., column * width // 4 : (column + 1) * width // 4
        ] += top // 2
        return image, label


class Digits(Cifar10):
    """Images like :class:`Cifar10`, but (1, 8, 8) with values up to 16."""

    shape = (1, 8, 8)
    top = 16


class Entsoe(Synthetic):
    """Load in MW with a daily cycle and noise: 96 input values, 24 target values."""

    @classmethod
    def shapes(cls, grid: tuple[int, int] | None) -> Shapes:
        """See :class:`Synthetic`."""
        return Shapes(((INPUTS,), "<f4", "MW"), ((TARGETS,), "<f4", "MW"), coords=horizons())

    def item(self, split: str, item: int) -> Item:
        """See :class:`Synthetic`."""
        generator = self.generator(split, item)
        quarter = generator.integers(0, 96) + np.arange(INPUTS + TARGETS)
        load = 55_000 + 9_000 * np.sin(2 * np.pi * quarter / 96)
        load += generator.normal(0, 500, len(load))
        return load[:INPUTS], load[INPUTS:]


class Era5(Synthetic):
    """Waves along longitude, a different one in each channel, and their state six hours later.

    Fields are float32 with 76 input and 69 target channels, by default on (121, 240) points.
    """

    least_grid = 2

    @classmethod
    def shapes(cls, grid: tuple[int, int] | None) -> Shapes:
        """See :class:`Synthetic`."""
        rows, columns = grid or (LATITUDES, LONGITUDES)
        coords = field_coordinates(np.linspace(-90, 90, rows), np.arange(columns) * 360 / columns)
        coords["time"] = Coordinate(np.empty(0), "hours since 2000-01-01")
        return Shapes(
            ((len(CHANNELS), rows, columns), "<f4", ""),
            ((len(VARIABLES), rows, columns), "<f4", ""),
            coords=coords,
            lead="6 h",
        )

    def item(self, split: str, item: int) -> Item:
        """See :class:`Synthetic`."""
        generator = self.generator(split, item)
        channels, height, width = self.arrays["x"].shape
        phase = generator.uniform(0, 2 * np.pi, (channels, 1, 1))
        angle = 2 * np.pi * np.arange(width) / width
        north = np.cos(np.linspace(-np.pi / 2, np.pi / 2, height))[:, None]
        x = north * np.sin(angle * (1 + np.arange(channels) % 5)[:, None, None] + phase)
        eastwards = max(1, width * 4 // LONGITUDES)
        return x, np.roll(x[: self.arrays["y"].shape[0]], eastwards, axis=-1)


def synthetic(
    like: Annotated[str, Asked(f"Dataset to imitate: {', '.join(MADE_UP)}.", "--like")],
    items: Annotated[int, Asked("Number of items in all splits together.", "--items", least=10)],
    *,
    seed: Annotated[int, Asked("Seed of the data.", least=0)] = 0,
    compression: Annotated[Compression | None, Asked("Compression filter of the chunks.")] = None,
    grid: Annotated[
        tuple[int, int] | None,
        Asked("Number of latitudes and longitudes of era5, e.g. 24 48 (default: 121 240)."),
    ] = None,
) -> Synthetic:
    """Generate synthetic items in the shape of a real dataset, for trials without a download.

    The splits have 80% train, 10% valid and 10% test items.

    Parameters
    ----------
    like
        A key of ``MADE_UP``, or a subclass of :class:`Synthetic` as ``package.module:Class``.
    items
        Number of items in all splits together, at least 10.
    seed
        Seed of the data.
    compression
        Compression filter of the chunks.
    grid
        Number of latitudes and longitudes of fields (default: 121 and 240).

    Raises
    ------
    UsageError
        If there are too few items, or a grid is given for data without a grid.

    Examples
    --------
    hpcsamp ingest synthetic --like cifar10 --items 256 --out data/synthetic

    mpirun -n 2 hpcsamp ingest synthetic --like era5 --items 64 --out data/era5
    """
    kind: type[Synthetic] = MADE_UP.find(like)
    if grid is not None and (kind.least_grid is None or min(grid) < kind.least_grid):
        raise UsageError(
            f"--grid {grid[0]} {grid[1]} for {like}: only era5 has a grid, of at least 2 x 2"
        )
    if items < 10:
        raise UsageError(f"--items {items}: at least 10 are needed to fill three splits")
    held = {name: int(items * part) for name, part in FRACTIONS.items()}
    shapes = kind.shapes(grid)
    task = shapes.task or ("regression" if shapes.classes is None else "classification")
    names = {"x": (), "y": shapes.names}
    return kind(
        name=f"synthetic-{like}",
        task=task,
        classes=shapes.classes,
        class_names=None if shapes.class_names is None else list(shapes.class_names),
        normalize_y=task == "regression",
        arrays={
            name: ArraySpec.plan(
                shape, dtype, compression=compression, units=units, names=names[name]
            )
            for name, (shape, dtype, units) in (("x", shapes.x), ("y", shapes.y))
        },
        splits={"train": items - sum(held.values()), **held},
        source={"name": f"synthetic, like {like}", "seed": seed, "items": items},
        licence="CC0",
        coords=dict(shapes.coords),
        meaning={"y": {"lead": shapes.lead}} if shapes.lead else {},
        seed=seed,
    )
