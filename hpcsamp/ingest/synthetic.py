"""Made-up data in the shape of the real sets, so that everything can be tried without a download.

Each item is a function of (seed, split, item): any rank can make any part.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from hpcsamp.data.manifest import ArraySpec
from hpcsamp.data.shard_writer import Coordinate
from hpcsamp.errors import UsageError
from hpcsamp.ingest.entsoe import INPUTS, TARGETS, horizons
from hpcsamp.ingest.fields import CHANNELS, VARIABLES, field_coordinates
from hpcsamp.ingest.source import Source
from hpcsamp.streams import Purpose, numpy_generator

Like = Literal["digits", "cifar10", "entsoe", "era5"]

FRACTIONS = {"valid": 0.1, "test": 0.1}
SPLITS = {"train": 0, "valid": 1, "test": 2}

LATITUDES, LONGITUDES = 121, 240


@dataclass
class Synthetic(Source):
    """Items drawn from the stream of their own number.

    Attributes
    ----------
    like
        Which set they resemble.
    seed
        Of the data.
    """

    like: Like = "cifar10"
    seed: int = 0

    def read(self, split: str, start: int, stop: int) -> Mapping[str, np.ndarray]:
        """See :class:`Source`."""
        make = getattr(self, f"_{self.like}")
        items = [make(split, item) for item in range(start, stop)]
        found = {
            "x": np.stack([x for x, _ in items]).astype(self.arrays["x"].dtype),
            "y": np.stack([y for _, y in items]).astype(self.arrays["y"].dtype),
        }
        if "time" in self.coords:
            found["time"] = np.arange(start, stop) * 3.0
        return found

    def _generator(self, split: str, item: int) -> np.random.Generator:
        return numpy_generator(self.seed, Purpose.SYNTHETIC, SPLITS[split], item)

    def _image(self, split: str, item: int, top: int) -> tuple[np.ndarray, np.integer]:
        """A bright spot whose place tells the class, in noise."""
        generator = self._generator(split, item)
        _, height, width = self.arrays["x"].shape
        label = generator.integers(10)
        image = generator.integers(0, top // 2, self.arrays["x"].shape)
        row, column = divmod(int(label), 4)
        image[:, row * height // 4 : (row + 1) * height // 4][
            ..., column * width // 4 : (column + 1) * width // 4
        ] += top // 2
        return image, label

    def _digits(self, split: str, item: int) -> tuple[np.ndarray, np.integer]:
        return self._image(split, item, 16)

    def _cifar10(self, split: str, item: int) -> tuple[np.ndarray, np.integer]:
        return self._image(split, item, 255)

    def _entsoe(self, split: str, item: int) -> tuple[np.ndarray, np.ndarray]:
        """A daily wave of load in MW, with noise."""
        generator = self._generator(split, item)
        quarter = generator.integers(0, 96) + np.arange(INPUTS + TARGETS)
        load = 55_000 + 9_000 * np.sin(2 * np.pi * quarter / 96)
        load += generator.normal(0, 500, len(load))
        return load[:INPUTS], load[INPUTS:]

    def _era5(self, split: str, item: int) -> tuple[np.ndarray, np.ndarray]:
        """Waves along longitude, one of its own per channel, and the same six hours later."""
        generator = self._generator(split, item)
        channels, height, width = self.arrays["x"].shape
        phase = generator.uniform(0, 2 * np.pi, (channels, 1, 1))
        angle = 2 * np.pi * np.arange(width) / width
        north = np.cos(np.linspace(-np.pi / 2, np.pi / 2, height))[:, None]
        x = north * np.sin(angle * (1 + np.arange(channels) % 5)[:, None, None] + phase)
        eastwards = max(1, width * 4 // LONGITUDES)
        return x, np.roll(x[: self.arrays["y"].shape[0]], eastwards, axis=-1)


def synthetic(
    like: Like,
    items: int,
    *,
    seed: int = 0,
    compression: Literal["gzip", "lzf"] | None = None,
    grid: tuple[int, int] | None = None,
) -> Synthetic:
    """A set in the shape of a real one: 80% train, 10% valid, 10% test.

    Parameters
    ----------
    like
        ``digits``: (1, 8, 8) uint8. ``cifar10``: (3, 32, 32) uint8. ``entsoe``: 96 in, 24 out.
        ``era5``: (76, 121, 240) in, (69, 121, 240) out, float32.
    items
        In all splits together, at least 10.
    seed
        Of the data.
    compression
        Filter of the chunks.
    grid
        Latitudes and longitudes of ``era5``, where they are not to be 121 and 240.

    Raises
    ------
    UsageError
        If there are too few items, or a grid for something without one.
    """
    if grid is not None and (like != "era5" or min(grid) < 2):
        raise UsageError(f"a grid of {grid[0]} x {grid[1]} for {like}: era5 has one, from 2 x 2")
    latitudes, longitudes = grid or (LATITUDES, LONGITUDES)
    if items < 10:
        raise UsageError(f"--items {items}: at least 10 are needed, to fill three splits")
    held = {name: int(items * part) for name, part in FRACTIONS.items()}
    splits = {"train": items - sum(held.values()), **held}

    def array(shape: tuple[int, ...], dtype: str, units: str = "") -> ArraySpec:
        return ArraySpec.plan(shape, dtype, compression=compression, units=units)

    classes = None
    coords: dict[str, Coordinate] = {}
    if like in ("digits", "cifar10"):
        shape = (1, 8, 8) if like == "digits" else (3, 32, 32)
        arrays = {"x": array(shape, "u1"), "y": array((), "<i8")}
        classes = 10
    elif like == "entsoe":
        arrays = {"x": array((INPUTS,), "<f4", "MW"), "y": array((TARGETS,), "<f4", "MW")}
        coords = horizons()
    elif like == "era5":
        arrays = {
            "x": array((len(CHANNELS), latitudes, longitudes), "<f4"),
            "y": array((len(VARIABLES), latitudes, longitudes), "<f4"),
        }
        coords = field_coordinates(
            np.linspace(-90, 90, latitudes), np.arange(longitudes) * 360 / longitudes
        )
        coords["time"] = Coordinate(np.empty(0), "hours since 2000-01-01")
    else:
        raise UsageError(f"--like {like!r}: choose digits, cifar10, entsoe or era5")
    return Synthetic(
        name=f"synthetic-{like}",
        task="regression" if classes is None else "classification",
        classes=classes,
        normalize_y=classes is None,
        arrays=arrays,
        splits=splits,
        source={"name": f"synthetic, like {like}", "seed": seed, "items": items},
        licence="CC0",
        coords=coords,
        like=like,
        seed=seed,
    )
