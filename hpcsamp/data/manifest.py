"""The manifest of a dataset folder: its arrays, splits, shards and statistics.

A folder is a dataset if and only if it contains a valid ``manifest.json``, which is written last.
Its entries of shards (counts, sizes, uid) are compared with the shards when a dataset is opened.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, ValidationError, model_validator

from hpcsamp.data import slabs
from hpcsamp.data.offsets import Offsets
from hpcsamp.data.roles import (
    Inputs,
    Kind,
    ManifestPart,
    Missing,
    Target,
    check_roles,
    kinds_of,
    targets_of,
)
from hpcsamp.errors import DataError
from hpcsamp.files import write_whole
from hpcsamp.names import Compression
from hpcsamp.sealing import text

PLAIN, NAMED, SCHEMA = 2, 3, 4
"""Versions of the folder layout; a dataset has the lowest version that can describe it. Version 1
has no seals (checksums of a shard outside its chunks); version 2 has seals; version 3 adds named
inputs and targets and missing values; version 4 adds chunks that are slabs of an item."""
SCHEMAS = (1, PLAIN, NAMED, SCHEMA)
"""Versions that can be read."""

NAME = "manifest.json"
CHUNK_BYTES = 2 * 2**20
"""Target size of a chunk in bytes; chunks have 1 to 4 MiB if the shape of the items allows it."""


def units_by_name(units: str, names: Sequence[str]) -> list[str]:
    """Return the units of named rows from ``"load [MW], speed [m/s]"`` or one unit for all rows.

    A name with ``@``, such as that of a variable at a level, has the unit of the name before it.
    """
    if not units.endswith("]"):
        return [units] * len(names)
    parts = (part.rpartition(" [") for part in units[:-1].split("], "))
    known = {name: unit for name, _, unit in parts}
    return [known.get(name, known.get(name.partition("@")[0], "")) for name in names]


class ArraySpec(ManifestPart):
    """Shape, type and chunks of one array of the items (``x``, ``y``, ...).

    Attributes
    ----------
    shape
        Shape of one item; ``[]`` if it is a single value.
    dtype
        NumPy name of a little-endian type, e.g. ``"<f4"``.
    items_per_chunk, rows_per_chunk
        A chunk holds ``items_per_chunk`` whole items. If an item is too large for one chunk,
        ``items_per_chunk`` is 1 and a chunk holds ``rows_per_chunk`` rows of its first axis.
    slab
        Shape of the part of an item that a chunk holds, if items are cut along several axes; then
        ``items_per_chunk`` is 1 and ``rows_per_chunk`` is the first number of the shape. ``None``:
        a chunk holds whole rows.
    compression
        ``None`` (chunks can be read at their offsets) or the name of an HDF5 filter.
    units, description
        Text for reports. If rows have names, each may have a unit: ``"load [MW], speed [m/s]"``.
    names
        Names of the rows, such as the columns of a table; a number has a single name. May be empty.
    """

    shape: list[int]
    dtype: str
    items_per_chunk: int = Field(ge=1)
    rows_per_chunk: int = Field(ge=1)
    slab: list[int] | None = None
    compression: Compression | None = None
    units: str = ""
    description: str = ""
    names: list[str] = Field(default_factory=list)

    @model_validator(mode="after")
    def _named(self) -> ArraySpec:
        if self.names and len(self.names) != self.rows:
            raise ValueError(f"there are {len(self.names)} names for {self.rows} rows of an item")
        if self.slab is not None:
            fits = len(self.slab) == len(self.shape) > 0 and all(
                1 <= width <= n for width, n in zip(self.slab, self.shape, strict=True)
            )
            if not fits:
                raise ValueError(
                    f"slabs of shape {self.slab} do not fit items of shape {self.shape}"
                )
            if (self.items_per_chunk, self.rows_per_chunk) != (1, self.slab[0]):
                raise ValueError(
                    f"a slab of shape {self.slab} does not fit items_per_chunk = "
                    f"{self.items_per_chunk} and rows_per_chunk = {self.rows_per_chunk}"
                )
        return self

    def in_slabs(
        self, slab: Sequence[int] | None = None, chunk_bytes: int = CHUNK_BYTES
    ) -> ArraySpec:
        """Return the same array stored in slabs, of the given shape or of a suitable one.

        An array whose items fit into one chunk is returned unchanged.
        """
        if slab is None:
            slab = slabs.choose_slab(self.shape, np.dtype(self.dtype).itemsize, chunk_bytes)
        cut = [max(1, min(int(n), width)) for n, width in zip(self.shape, slab, strict=True)]
        if cut == self.shape:
            return self
        return self.model_copy(update={"slab": cut, "items_per_chunk": 1, "rows_per_chunk": cut[0]})

    @property
    def row_units(self) -> list[str]:
        """The unit of each row."""
        return units_by_name(self.units, self.names) or [self.units] * self.rows

    @property
    def rows(self) -> int:
        """Number of rows of an item: the length of its first axis."""
        return self.shape[0] if self.shape else 1

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return math.prod(self.shape[1:]) * np.dtype(self.dtype).itemsize

    @property
    def item_bytes(self) -> int:
        """Bytes of one item."""
        return self.rows * self.row_bytes

    @property
    def part_shape(self) -> tuple[int, ...]:
        """Shape of the part of each item that a chunk holds; ``()`` for numbers."""
        if self.slab is not None or not self.shape:
            return tuple(self.slab or ())
        return (min(self.rows, self.rows_per_chunk), *self.shape[1:])

    @property
    def chunks_per_item(self) -> int:
        """Number of chunks into which a large item is cut; 1 for other items."""
        return math.prod(slabs.grid_of(self.shape, self.part_shape))

    @property
    def chunk_bytes(self) -> int:
        """Bytes of a full, uncompressed chunk."""
        return self.items_per_chunk * math.prod(self.part_shape) * np.dtype(self.dtype).itemsize

    def chunk_count(self, items: int) -> int:
        """Number of chunks of a shard with ``items`` items."""
        return -(-items // self.items_per_chunk) * self.chunks_per_item

    @classmethod
    def plan(
        cls,
        shape: Sequence[int],
        dtype: np.dtype | str,
        *,
        compression: Compression | None = None,
        units: str = "",
        description: str = "",
        names: Sequence[str] = (),
        chunk_bytes: int = CHUNK_BYTES,
    ) -> ArraySpec:
        """Choose chunks: whole items up to ``chunk_bytes``, large items cut along their first axis.

        A chunk of a cut item holds no parts of other items, so only its own bytes are read.
        """
        shape = [int(n) for n in shape]
        kind = np.dtype(dtype).newbyteorder("<")
        rows = shape[0] if shape else 1
        row_bytes = math.prod(shape[1:]) * kind.itemsize
        if rows * row_bytes <= 2 * chunk_bytes:
            items, per_chunk = max(1, chunk_bytes // max(1, rows * row_bytes)), rows
        else:
            parts = 1
            while -(-rows // parts) * row_bytes > 2 * chunk_bytes and parts < rows:
                parts *= 2
            items, per_chunk = 1, -(-rows // parts)
        return cls(
            shape=shape,
            dtype=kind.str,
            items_per_chunk=items,
            rows_per_chunk=max(1, per_chunk),
            compression=compression,
            units=units,
            description=description,
            names=list(names),
        )


class ShardEntry(ManifestPart):
    """Entry of one shard file in the manifest.

    Attributes
    ----------
    file
        Name within the folder.
    split, first, count
        The shard holds items ``first .. first + count - 1`` of its split.
    size, sha256
        Size in bytes and checksum of the whole file.
    chunks
        Offsets of the chunks of each array.
    """

    file: str = Field(pattern=r"^[^/\\\x00]*[^/\\\x00.][^/\\\x00]*$")
    split: str
    first: int = Field(ge=0)
    count: int = Field(ge=1)
    size: int = Field(ge=0)
    sha256: str
    chunks: dict[str, Offsets]


class Stats(ManifestPart):
    """Statistics of one array over the train split, per channel or feature (float64).

    Each list has the length of the first axis of an item, or one entry if items are numbers.
    """

    mean: list[float]
    std: list[float]
    min: list[float]
    max: list[float]
    count: int = Field(
        description="number of values per channel over which the statistics were taken"
    )


class Manifest(ManifestPart):
    """The content of ``manifest.json``.

    Attributes
    ----------
    uid
        Unique identifier of the dataset, the same in every shard.
    task
        The kind of task for which the dataset was made, see :mod:`hpcsamp.tasks`.
    classes
        Number of classes if ``y`` holds labels ``0 .. classes - 1``; ``None`` for
        numeric targets.
    class_names
        Names of the classes, in the order of the labels; ``None`` if they have no names.
    inputs
        Kind of ``x``; for several inputs their kinds by name, in the order of the network's
        arguments. Ids and flags have no statistics and are passed to networks unchanged.
    normalize_y
        Whether targets are standardised for training (their statistics are in ``stats["y"]``).
    missing
        Mark of a missing value in ``y``: ``"nan"``, or a number among labels.
    targets
        Descriptions of several targets by name; then there is no ``y``, and ``task`` is
        ``"several"``.
    arrays
        ``x`` and ``y``, or inputs and targets by name; optionally ``weight``, one value per item.
    splits
        Number of items of each split.
    coords
        Names and units of the coordinates in the shards.
    meaning
        Meaning of the values of each array beyond shape and coordinates, such as the lead time of
        a forecast. Datasets with different meanings are not interchangeable.
    source, licence, transforms
        Origin of the data and the transforms applied to it, in order.
    """

    schema_version: int
    uid: str
    name: str
    task: str
    classes: int | None = Field(None, ge=2)
    class_names: list[str] | None = None
    inputs: Inputs | dict[str, Kind] = "numbers"
    normalize_y: bool = False
    missing: Missing | None = None
    targets: dict[str, Target] = Field(default_factory=dict)
    arrays: dict[str, ArraySpec]
    splits: dict[str, int]
    shards: list[ShardEntry]
    stats: dict[str, Stats]
    coords: dict[str, str] = Field(default_factory=dict)
    meaning: dict[str, dict[str, str]] = Field(default_factory=dict)
    source: dict[str, Any] = Field(default_factory=dict)
    licence: str = ""
    transforms: list[str] = Field(default_factory=list)
    created_by: str = ""
    versions: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _agrees(self) -> Manifest:
        """Check that item counts, shard order and chunk counts are consistent."""
        if self.schema_version not in SCHEMAS:
            raise ValueError(
                f"the schema version is {self.schema_version}, but this version of hpcsamp reads "
                f"{', '.join(map(str, SCHEMAS[:-1]))} and {SCHEMA}"
            )
        check_roles(self)
        seen = dict.fromkeys(self.splits, 0)
        for s in self.shards:
            if s.split not in seen:
                raise ValueError(f"{s.file} belongs to split {s.split!r}, which is not listed")
            if s.first != seen[s.split]:
                raise ValueError(f"{s.file} begins at item {s.first}, expected {seen[s.split]}")
            seen[s.split] += s.count
            for name, spec in self.arrays.items():
                listed, expected = s.chunks[name].count, spec.chunk_count(s.count)
                if listed != expected:
                    raise ValueError(
                        f"{s.file} has {listed} chunks of {name} for {s.count} items, "
                        f"expected {expected}"
                    )
        for split, count in self.splits.items():
            if seen[split] != count:
                raise ValueError(
                    f"split {split!r} has {count} items, but its shards hold {seen[split]}"
                )
        return self

    @property
    def kinds(self) -> dict[str, Kind]:
        """Kind of each input by name, in the order of the network's arguments."""
        return kinds_of(self)

    @property
    def targets_by_name(self) -> dict[str, Target]:
        """Description of each target by name, even if there is only one."""
        return targets_of(self)

    def of_split(self, split: str) -> list[ShardEntry]:
        """The shards of a split, in item order."""
        return [s for s in self.shards if s.split == split]

    def write(self, folder: Path) -> None:
        """Write ``manifest.json`` atomically."""
        table = self.model_dump(mode="json", exclude_defaults=True)
        write_whole(folder / NAME, text.to_json(table))


def read_manifest(folder: str | Path) -> Manifest:
    """Read and check ``manifest.json``.

    Raises
    ------
    DataError
        If there is no manifest, or it is not valid JSON, damaged or inconsistent.
    """
    path = Path(folder) / NAME
    if not path.is_file():
        reason = "no such folder" if not Path(folder).is_dir() else f"no file {NAME}"
        raise DataError(
            f"{folder} is not a dataset ({reason}); make one with hpcsamp ingest KIND --out "
            f"{shlex.quote(str(folder))}"
        )
    table = text.read_json(path, unsealed=lambda table: table.get("schema_version") == SCHEMAS[0])
    try:
        return Manifest.model_validate(table)
    except ValidationError as e:
        fault = e.errors()[0]
        where = ".".join(str(p) for p in fault["loc"])
        message = fault["msg"].removeprefix("Value error, ")
        raise DataError(f"{path}: {where + ': ' if where else ''}{message}") from None
    except (KeyError, TypeError, ArithmeticError, MemoryError) as e:
        raise DataError(f"{path} is damaged: {type(e).__name__} {e}") from None
