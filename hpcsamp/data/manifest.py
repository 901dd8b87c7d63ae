"""The manifest: what a dataset folder holds, and where every chunk of it lies.

A folder is a dataset if and only if it holds a valid ``manifest.json``; it is written last. What it
says of the shards (counts, sizes, uid) is compared with the shards themselves when a set is opened.
"""

from __future__ import annotations

import math
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
    Missing,
    Part,
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
"""Versions of the folder layout; a set has the lowest that describes it. In version 1 manifest and
shards were not sealed; up to version 2 there were the arrays ``x`` and ``y`` alone, without missing
values; up to version 3 no chunk was a slab of an item."""
SCHEMAS = (1, PLAIN, NAMED, SCHEMA)
"""Versions that are read."""

NAME = "manifest.json"
CHUNK_BYTES = 2 * 2**20
"""Bytes a chunk aims at: within 1 to 4 MiB wherever items allow."""


def units_by_name(units: str, names: Sequence[str]) -> list[str]:
    """Units of named rows, of ``"load [MW], speed [m/s]"`` or of one unit for all.

    A name with ``@``, as of a variable at a level, has the unit of what is before it.
    """
    if not units.endswith("]"):
        return [units] * len(names)
    parts = (part.rpartition(" [") for part in units[:-1].split("], "))
    told = {name: unit for name, _, unit in parts}
    return [told.get(name, told.get(name.partition("@")[0], "")) for name in names]


class ArraySpec(Part):
    """One array of the items (``x``, ``y``, ...).

    Attributes
    ----------
    shape
        Shape of one item; ``[]`` for a number.
    dtype
        NumPy name of a little-endian type, e.g. ``"<f4"``.
    items_per_chunk, rows_per_chunk
        A chunk holds that many whole items, or, of items too large for one chunk, that many rows of
        the first axis of one item (then ``items_per_chunk`` is 1).
    slab
        Shape of the part of one item that a chunk holds, of items that are cut along any of their
        axes; then ``items_per_chunk`` is 1 and ``rows_per_chunk`` its first number. ``None``: a
        chunk holds whole rows.
    compression
        ``None`` (chunks can be read at their offsets) or the name of an HDF5 filter.
    units, description
        For people. Where rows have names, units may be told by name: ``"load [MW], speed [m/s]"``.
    names
        Of the rows, such as the columns of a table; of a number its own name alone. May be empty.
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
            raise ValueError(f"{len(self.names)} names for the {self.rows} rows of an item")
        if self.slab is not None:
            fits = len(self.slab) == len(self.shape) > 0 and all(
                1 <= width <= n for width, n in zip(self.slab, self.shape, strict=True)
            )
            if not fits:
                raise ValueError(f"slabs of {self.slab} do not fit items of {self.shape}")
            if (self.items_per_chunk, self.rows_per_chunk) != (1, self.slab[0]):
                raise ValueError(
                    f"a slab of {self.slab} is no chunk of {self.items_per_chunk} items, "
                    f"{self.rows_per_chunk} rows"
                )
        return self

    def in_slabs(
        self, slab: Sequence[int] | None = None, chunk_bytes: int = CHUNK_BYTES
    ) -> ArraySpec:
        """The same array in slabs of a given shape, or of one that is chosen for its items.

        An array whose items fit one chunk stays as it is.
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
        """Rows of one item: the length of its first axis. A row is never split between ranks."""
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
        """Shape of the part of each item that a chunk holds, ``()`` for numbers."""
        if self.slab is not None or not self.shape:
            return tuple(self.slab or ())
        return (min(self.rows, self.rows_per_chunk), *self.shape[1:])

    @property
    def chunks_per_item(self) -> int:
        """1, or the number of chunks that a large item is cut into."""
        return math.prod(slabs.grid_of(self.shape, self.part_shape))

    @property
    def chunk_bytes(self) -> int:
        """Bytes of a whole, unfiltered chunk."""
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

        A chunk never holds parts of two items, so that reading an item touches its own bytes alone.
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


class ShardEntry(Part):
    """One shard file.

    Attributes
    ----------
    file
        Name within the folder.
    split, first, count
        It holds items ``first .. first + count - 1`` of its split.
    size, sha256
        Of the whole file.
    chunks
        Where the chunks of each array lie.
    """

    file: str = Field(pattern=r"^[^/\\\x00]*[^/\\\x00.][^/\\\x00]*$")
    split: str
    first: int = Field(ge=0)
    count: int = Field(ge=1)
    size: int = Field(ge=0)
    sha256: str
    chunks: dict[str, Offsets]


class Stats(Part):
    """Statistics of one array over the train split, per channel or feature (float64).

    ``mean`` and the others have the length of the first axis of an item, or one entry for numbers.
    """

    mean: list[float]
    std: list[float]
    min: list[float]
    max: list[float]
    count: int = Field(description="values per channel that the statistics were taken over")


class Manifest(Part):
    """``manifest.json``.

    Attributes
    ----------
    uid
        Identity of the set, the same in every shard.
    task
        The kind of task that the set is made for, see :mod:`hpcsamp.tasks`.
    classes
        What ``y`` is: labels ``0 .. classes - 1``, or numbers (``classes`` is ``None``).
    class_names
        Of the classes, in the order of the labels; ``None`` if they have none.
    inputs
        What ``x`` is; of several inputs what each of them is by name, in the order in which a
        network gets them. Ids and flags have no statistics; networks get them as they are.
    normalize_y
        Whether targets are standardised for training (their statistics are in ``stats["y"]``).
    missing
        What stands in ``y`` for a value that is not known: ``"nan"``, or a number among labels.
    targets
        Of several targets what each of them is by name; then there is no ``y``, and ``task`` is
        ``"several"``.
    arrays
        ``x`` and ``y``, or inputs and targets by name; perhaps ``weight``, one of each item.
    splits
        Items of each split.
    coords
        Names and units of coordinates that the shards hold.
    meaning
        By array what its numbers are, beyond shape and coordinates, such as the lead time of a
        forecast: sets that differ in it cannot stand in for each other.
    source, licence, transforms
        Where the data came from and what was done to it, in order.
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
        """Counts, order and chunk numbers agree with each other."""
        if self.schema_version not in SCHEMAS:
            raise ValueError(
                f"schema version is {self.schema_version}, this hpcsamp reads "
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
                told, expected = s.chunks[name].count, spec.chunk_count(s.count)
                if told != expected:
                    raise ValueError(
                        f"{s.file} has {told} chunks of {name} for {s.count} items, not {expected}"
                    )
        for split, count in self.splits.items():
            if seen[split] != count:
                raise ValueError(
                    f"split {split!r} counts {count} items, its shards hold {seen[split]}"
                )
        return self

    @property
    def kinds(self) -> dict[str, Kind]:
        """What each input is by name, in the order in which a network gets them."""
        return kinds_of(self)

    @property
    def targets_by_name(self) -> dict[str, Target]:
        """What each target is, also if there is one only."""
        return targets_of(self)

    def of_split(self, split: str) -> list[ShardEntry]:
        """The shards of a split, in item order."""
        return [s for s in self.shards if s.split == split]

    def write(self, folder: Path) -> None:
        """Write ``manifest.json`` so that it is there whole or not at all."""
        table = self.model_dump(mode="json", exclude_defaults=True)
        write_whole(folder / NAME, text.to_json(table))


def read_manifest(folder: str | Path) -> Manifest:
    """Read and check ``manifest.json``.

    Raises
    ------
    DataError
        If there is none, it is not JSON, or what it says does not agree with itself.
    """
    path = Path(folder) / NAME
    if not path.is_file():
        reason = "no such folder" if not Path(folder).is_dir() else f"no file {NAME}"
        raise DataError(f"{folder} is not a dataset ({reason}); make one with hpcsamp ingest")
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
