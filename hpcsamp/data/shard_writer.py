"""Write shards: HDF5 files that any HDF5 or netCDF library can read.

Contents: the arrays ``/x`` and ``/y``, or others by their names; ``/index`` (position in the
split); coordinates as dimension scales (also under ``/coords``);
``/stats/{x,y}/{mean,std,min,max,count}`` over the train split (NaN for arrays without statistics,
such as labels); ``/integrity/{x,y}_crc32`` (one CRC-32 per chunk, over its decoded items); root
attributes as in :func:`header`.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from hpcsamp.data.manifest import ArraySpec, Stats
from hpcsamp.data.offsets import Offsets
from hpcsamp.data.sink import Sink
from hpcsamp.data.slabs import slab_box, slices
from hpcsamp.errors import DataError
from hpcsamp.sealing import regions

NAMED = {"x": "feature", "y": "target"}
"""Name of the coordinate that holds the names of an array's rows."""

ATTRIBUTE_BYTES = 8192
"""Largest length of the text of an attribute, in bytes."""


@dataclass(frozen=True)
class Coordinate:
    """A coordinate of the items: values along one axis of ``x`` and ``y``, or one per item.

    Attributes
    ----------
    values
        Numbers or strings, shape ``(length of the axis,)``. Empty for a coordinate with one value
        per item, whose values come with the items.
    units
        Unit of numbers, e.g. ``degrees_north`` or ``hours since 1900-01-01``.
    axis
        Axis of the item (0 is the first after the item axis), or ``None`` for one value per item.
    arrays
        Names of the arrays that have the coordinate: ``("x",)``, ``("y",)`` or both.
    """

    values: np.ndarray
    units: str = ""
    axis: int | None = None
    arrays: tuple[str, ...] = ("x",)


@dataclass(frozen=True)
class Written:
    """File offsets in a new shard.

    Attributes
    ----------
    chunks
        Offsets of the chunks of each array.
    stats
        Offsets of the statistics of each array, by name.
    """

    chunks: dict[str, Offsets]
    stats: dict[str, dict[str, int]]


def shard_name(number: int) -> str:
    """File name of a shard, e.g. ``shard-00000.h5``."""
    return f"shard-{number:05d}.h5"


def write_shard(
    path: Path,
    arrays: Mapping[str, ArraySpec],
    blocks: Iterable[Mapping[str, np.ndarray]],
    count: int,
    attributes: Mapping[str, Any],
    coords: Mapping[str, Coordinate],
    class_names: Mapping[str, Sequence[str]] | None = None,
) -> Written:
    """Write the items of one shard, and reserve space for the statistics.

    Parameters
    ----------
    path
        The new file; no other process may read it yet.
    arrays
        Shapes and types of the arrays.
    blocks
        Items in order, in blocks of any length: arrays and per-item coordinates by name.
    count
        Number of items in all blocks together.
    attributes
        Root attributes, see :func:`header`.
    coords
        Coordinates by name.
    class_names
        Names of the classes of each array of labels.

    Returns
    -------
    Written
        File offsets of chunks and statistics.

    Raises
    ------
    DataError
        If the disk is full or the blocks do not hold ``count`` items.
    """
    sink = Sink(path)
    try:
        with h5py.File(sink, "w") as f:
            coords = {**named_axes(arrays, coords), **coords}
            written = _fill(f, arrays, blocks, count, attributes, coords, sink)
            for name, of_classes in (class_names or {}).items():
                f[name].attrs["class_names"] = json.dumps(_attribute(list(of_classes)))
        sink.sync()
    finally:
        sink.close()
    return written


def _fill(
    f: h5py.File,
    arrays: Mapping[str, ArraySpec],
    blocks: Iterable[Mapping[str, np.ndarray]],
    count: int,
    attributes: Mapping[str, Any],
    coords: Mapping[str, Coordinate],
    sink: Sink,
) -> Written:
    f.attrs.update(attributes)
    crcs = {name: [0] * spec.chunk_count(count) for name, spec in arrays.items()}
    for name, spec in arrays.items():
        _create(f, name, spec, count)
    f.create_dataset("index", data=np.arange(count, dtype="<i8") + int(attributes["first"]))
    per_item = [name for name, c in coords.items() if c.axis is None]
    for name in per_item:
        f.create_dataset(name, (count,), "<f8").attrs["units"] = coords[name].units
    done = 0
    for block in blocks:
        size = len(block[next(iter(arrays))])
        for name, spec in arrays.items():
            values = np.ascontiguousarray(block[name], dtype=spec.dtype)
            if spec.slab is None:
                f[name][done : done + size] = values
                pieces = chunk_pieces(spec, done, values)
            else:
                pieces = _write_slabs(f[name], spec, done, values)
            for chunk, piece in pieces:
                crcs[name][chunk] = zlib.crc32(piece, crcs[name][chunk])
        for name in per_item:
            f[name][done : done + size] = block[name]
        done += size
        sink.check()
    if done != count:
        raise DataError(f"{sink.path.name}: the source yielded {done} items, expected {count}")
    for name, found in crcs.items():
        f.create_dataset(f"integrity/{name}_crc32", data=np.asarray(found, "<u4"))
    _scales(f, arrays, coords)
    places = {name: _reserve(f, name, spec) for name, spec in arrays.items()}
    f.flush()
    sink.check()
    return Written({name: _offsets(f[name], spec) for name, spec in arrays.items()}, places)


def _reserve(f: h5py.File, name: str, spec: ArraySpec) -> dict[str, int]:
    """Create datasets for the statistics, filled with NaN; return their file offsets."""
    places = {}
    for key in Stats.model_fields:
        shape = () if key == "count" else (spec.rows,)
        dataset = f.create_dataset(f"stats/{name}/{key}", data=np.full(shape, np.nan, "<f8"))
        places[key] = int(dataset.id.get_offset())
    return places


def _create(f: h5py.File, name: str, spec: ArraySpec, count: int) -> None:
    chunk = (min(spec.items_per_chunk, count), *spec.part_shape)
    dataset = f.create_dataset(
        name, (count, *spec.shape), spec.dtype, chunks=chunk, compression=spec.compression
    )
    dataset.attrs["units"] = spec.units
    if spec.description:
        dataset.attrs["long_name"] = spec.description[:ATTRIBUTE_BYTES]
    elif spec.names and not spec.shape:
        dataset.attrs["long_name"] = spec.names[0][:ATTRIBUTE_BYTES]


def chunk_pieces(
    spec: ArraySpec, first: int, values: np.ndarray
) -> Iterator[tuple[int, memoryview]]:
    """Cut items into the pieces that lie in each chunk; yields ``(chunk number, bytes)``.

    Parameters
    ----------
    first
        Position in the shard of the first item of ``values``, anywhere in a chunk.
    values
        Contiguous items, shape ``(n, *spec.shape)``.
    """
    raw = values.reshape(-1).view(np.uint8).data
    begin = 0
    while begin < len(values):
        group, inside = divmod(first + begin, spec.items_per_chunk)
        end = min(begin + spec.items_per_chunk - inside, len(values))
        piece = raw[begin * spec.item_bytes : end * spec.item_bytes]
        size = spec.rows_per_chunk * spec.row_bytes if spec.chunks_per_item > 1 else len(piece)
        for part in range(spec.chunks_per_item):
            yield group * spec.chunks_per_item + part, piece[part * size : (part + 1) * size]
        begin = end


def _write_slabs(
    dataset: h5py.Dataset, spec: ArraySpec, first: int, values: np.ndarray
) -> Iterator[tuple[int, memoryview]]:
    """Write items slab by slab and yield chunk numbers and bytes; memory holds one slab.

    Uncompressed chunks are written directly, and smaller ones at the end of an axis are padded with
    zeros, so that the file depends on its items alone.
    """
    for i, item in enumerate(values):
        for part in range(spec.chunks_per_item):
            box = slab_box(spec.shape, spec.part_shape, part)
            piece = np.ascontiguousarray(item[slices(box)])
            if spec.compression:
                dataset[first + i, *slices(box)] = piece
            else:
                full = piece
                if piece.shape != spec.part_shape:
                    full = np.zeros(spec.part_shape, piece.dtype)
                    full[tuple(slice(n) for n in piece.shape)] = piece
                dataset.id.write_direct_chunk((first + i, *(start for start, _ in box)), full.data)
            yield (first + i) * spec.chunks_per_item + part, piece.reshape(-1).view(np.uint8).data


def _offsets(dataset: h5py.Dataset, spec: ArraySpec) -> Offsets:
    """File offsets of all chunks in chunk order."""
    chunks = [dataset.id.get_chunk_info(i) for i in range(dataset.id.get_num_chunks())]
    chunks.sort(key=lambda info: info.chunk_offset)
    return Offsets.of([info.byte_offset for info in chunks], in_slabs=spec.slab is not None)


def named_axes(
    arrays: Mapping[str, ArraySpec], coords: Mapping[str, Coordinate]
) -> dict[str, Coordinate]:
    """Coordinates with the names of rows, for arrays without a coordinate along their rows."""
    found = {}
    for array, spec in arrays.items():
        own = any(c.axis == 0 and array in c.arrays for c in coords.values())
        if spec.names and spec.shape and not own:
            name = NAMED.get(array, f"row_of_{array}")
            found[name] = Coordinate(np.asarray(spec.names, object), "", 0, (array,))
    return found


def _scales(
    f: h5py.File, arrays: Mapping[str, ArraySpec], coords: Mapping[str, Coordinate]
) -> None:
    """Write coordinates as HDF5 dimension scales in the root, where netCDF readers expect them."""
    folder = f.create_group("coords")
    f["index"].make_scale("item")
    f["index"].attrs["long_name"] = "position in the split"
    for name in arrays:
        f[name].dims[0].attach_scale(f["index"])
    for name, coordinate in coords.items():
        if coordinate.axis is None:
            f[name].dims[0].attach_scale(f["index"])
        else:
            values = np.asarray(coordinate.values)
            if values.dtype.kind in "OUS":
                data = f.create_dataset(name, data=values.astype(object), dtype=h5py.string_dtype())
            else:
                data = f.create_dataset(name, data=values)
            data.attrs["units"] = coordinate.units
            data.make_scale(name)
            for array in coordinate.arrays:
                f[array].dims[coordinate.axis + 1].attach_scale(data)
        folder[name] = f[name]  # a hard link: the same data under both names


def write_stats(
    path: Path, stats: Mapping[str, Stats], places: Mapping[str, Mapping[str, int]]
) -> None:
    """Write ``/stats`` into a shard, after all shards of train have been written.

    Raises
    ------
    DataError
        If the shard cannot be written.
    """
    try:
        with path.open("r+b") as f:
            for name, values in stats.items():
                for key, value in values.model_dump().items():
                    f.seek(places[name][key])
                    f.write(np.asarray(value, "<f8").tobytes())
    except OSError as e:
        raise DataError(f"{path}: cannot write: {e.strerror or e}") from e


def seal(path: Path, arrays: Iterable[str] = ("x", "y")) -> None:
    """Append the seal to a finished shard.

    It covers all bytes except the chunks of the arrays, which have checksums of their own.

    Raises
    ------
    DataError
        If the shard cannot be written.
    """
    try:
        with h5py.File(path, "r", locking=False) as f:
            chunks = [f[name].id.get_chunk_info(i) for name in arrays
                      for i in range(f[name].id.get_num_chunks())]  # fmt: skip
        rows: list[tuple[int, int, int, int, int]] = []
        for at, size in sorted((c.byte_offset, c.size) for c in chunks):
            if rows and rows[-1][0] + rows[-1][1] == at:  # adjacent: one part
                at, size = rows[-1][0], rows.pop()[1] + size
            rows.append((at, size, size, 1, 0))
        regions.seal(path, regions.places(rows), checked=False)
    except OSError as e:
        raise DataError(f"{path}: cannot write: {e.strerror or e}") from e


def header(
    *,
    schema: int,
    uid: str,
    split: str,
    number: int,
    first: int,
    count: int,
    created_by: str,
    versions: Mapping[str, str],
    source: Mapping[str, Any],
    licence: str,
    transforms: Iterable[str],
) -> dict[str, Any]:
    """Root attributes of a shard."""
    return {
        "schema_version": schema,
        "dataset_uid": uid,
        "split": split,
        "shard": number,
        "first": first,
        "count": count,
        "created_by": created_by,
        "versions": json.dumps(dict(versions)),
        "source": json.dumps({k: _attribute(v) for k, v in source.items()}),
        "source_sha256": str(source.get("sha256", "")),
        "licence": licence,
        "transforms": json.dumps(_attribute(list(transforms))),
    }


def _attribute(value: Any) -> Any:
    """Shorten a value for an attribute, which HDF5 limits to 64 KiB; the manifest holds it all."""
    if len(json.dumps(value)) <= ATTRIBUTE_BYTES:
        return value
    return f"{len(value)} entries, see manifest.json"
