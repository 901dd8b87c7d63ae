"""One shard: an HDF5 file that anybody can read, written once and checked chunk by chunk.

Contents: ``/x``, ``/y``, ``/index`` (position in the split), coordinates as dimension scales (also
under ``/coords``), ``/stats/{x,y}/{mean,std,min,max,count}`` of the train split,
``/integrity/{x,y}_crc32`` (one CRC-32 per chunk, over its decoded items); root attributes as in
:func:`header`.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from hpcsamp.data.manifest import SCHEMA, ArraySpec, Manifest, Offsets, ShardEntry, Stats
from hpcsamp.errors import DataError


@dataclass(frozen=True)
class Coordinate:
    """A coordinate of the items: values along one axis of ``x`` and ``y``, or one per item.

    Attributes
    ----------
    values
        Shape ``(length of the axis,)``; numbers or strings. Empty for one that is per item, whose
        values come with the items.
    units
        For numbers, e.g. ``degrees_north`` or ``hours since 1900-01-01``.
    axis
        Axis of the item (0 is the first after the item axis), or ``None`` for one value per item.
    arrays
        Which arrays have it: ``("x",)``, ``("y",)`` or both.
    """

    values: np.ndarray
    units: str = ""
    axis: int | None = None
    arrays: tuple[str, ...] = ("x",)


def shard_name(number: int) -> str:
    """``shard-00000.h5`` and so on."""
    return f"shard-{number:05d}.h5"


def write_shard(
    path: Path,
    arrays: Mapping[str, ArraySpec],
    blocks: Iterable[Mapping[str, np.ndarray]],
    count: int,
    attributes: Mapping[str, Any],
    coords: Mapping[str, Coordinate],
) -> dict[str, Offsets]:
    """Write the items of one shard.

    Parameters
    ----------
    path
        A name nobody else reads yet.
    arrays
        What ``x`` and ``y`` are.
    blocks
        Items in order, in blocks of any length: arrays ``x``, ``y`` and per-item coordinates by
        name.
    count
        Number of items that the blocks hold together.
    attributes
        Root attributes, see :func:`header`.
    coords
        Coordinates by name.

    Returns
    -------
    dict
        Offsets of the chunks of each array.

    Raises
    ------
    DataError
        If the disk is full or the blocks hold another number of items.
    """
    try:
        with h5py.File(path, "w") as f:
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
                size = len(block["x"])
                for name, spec in arrays.items():
                    values = np.ascontiguousarray(block[name], dtype=spec.dtype)
                    f[name][done : done + size] = values
                    for chunk, piece in chunk_pieces(spec, done, values):
                        crcs[name][chunk] = zlib.crc32(piece, crcs[name][chunk])
                for name in per_item:
                    f[name][done : done + size] = block[name]
                done += size
            if done != count:
                raise DataError(f"{path.name}: its source gave {done} items, expected {count}")
            for name, found in crcs.items():
                f.create_dataset(f"integrity/{name}_crc32", data=np.asarray(found, "<u4"))
            _scales(f, arrays, coords)
            f.flush()
            return {name: _offsets(f[name]) for name in arrays}
    except OSError as e:
        raise DataError(f"{path}: cannot write: {e.strerror or e}") from e
    except RuntimeError as e:  # HDF5 reports a full disk while closing this way
        raise DataError(f"{path}: cannot write: {e}") from e


def _create(f: h5py.File, name: str, spec: ArraySpec, count: int) -> None:
    chunk = (min(spec.items_per_chunk, count), *spec.shape)
    if spec.shape:
        chunk = (chunk[0], min(spec.rows, spec.rows_per_chunk), *spec.shape[1:])
    dataset = f.create_dataset(
        name, (count, *spec.shape), spec.dtype, chunks=chunk, compression=spec.compression
    )
    dataset.attrs["units"] = spec.units
    if spec.description:
        dataset.attrs["long_name"] = spec.description


def chunk_pieces(
    spec: ArraySpec, first: int, values: np.ndarray
) -> Iterator[tuple[int, memoryview]]:
    """``(chunk number, bytes)`` of items, cut where chunks end.

    Parameters
    ----------
    first
        Item of the shard at which ``values`` begins, anywhere in a chunk.
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


def _offsets(dataset: h5py.Dataset) -> Offsets:
    """File offsets of all chunks in chunk order."""
    found = [dataset.id.get_chunk_info(i) for i in range(dataset.id.get_num_chunks())]
    found.sort(key=lambda info: info.chunk_offset)
    return Offsets.of([info.byte_offset for info in found])


def _scales(
    f: h5py.File, arrays: Mapping[str, ArraySpec], coords: Mapping[str, Coordinate]
) -> None:
    """Coordinates as HDF5 dimension scales in the root, where netCDF readers look for them."""
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


def write_stats(path: Path, stats: Mapping[str, Stats]) -> None:
    """Add ``/stats``, which are known only once every train shard is written.

    Raises
    ------
    DataError
        If the disk is full.
    """
    try:
        with h5py.File(path, "r+") as f:
            if "stats" in f:
                del f["stats"]
            for name, values in stats.items():
                for key, value in values.model_dump().items():
                    f.create_dataset(f"stats/{name}/{key}", data=np.asarray(value, np.float64))
    except OSError as e:
        raise DataError(f"{path}: cannot write: {e.strerror or e}") from e


def header(
    *,
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
        "schema_version": SCHEMA,
        "dataset_uid": uid,
        "split": split,
        "shard": number,
        "first": first,
        "count": count,
        "created_by": created_by,
        "versions": json.dumps(dict(versions)),
        "source": json.dumps(dict(source)),
        "source_sha256": str(source.get("sha256", "")),
        "licence": licence,
        "transforms": json.dumps(list(transforms)),
    }


def check_header(folder: Path, manifest: Manifest, entry: ShardEntry) -> None:
    """Compare a shard's size, attributes, shapes and statistics with the manifest.

    Cheap: no item is read.

    Raises
    ------
    DataError
        Naming the file and both values.
    """
    path = folder / entry.file
    try:
        size = path.stat().st_size
    except OSError as e:
        raise DataError(f"{path}: the manifest lists this shard, but: {e.strerror}") from None
    if size != entry.size:
        raise DataError(f"{path}: {size} bytes, the manifest says {entry.size}")
    try:
        with h5py.File(path, "r", locking=False) as f:
            told = {
                "schema_version": (f.attrs.get("schema_version"), manifest.schema_version),
                "dataset_uid": (f.attrs.get("dataset_uid"), manifest.uid),
                "split": (f.attrs.get("split"), entry.split),
                "first": (f.attrs.get("first"), entry.first),
                "count": (f.attrs.get("count"), entry.count),
            }
            for name, spec in manifest.arrays.items():
                if name not in f:
                    raise DataError(f"{path}: holds no array {name!r}")
                told[f"shape of {name}"] = (f[name].shape, (entry.count, *spec.shape))
                told[f"type of {name}"] = (f[name].dtype.str, np.dtype(spec.dtype).str)
            for name, stats in manifest.stats.items():
                group = f.get(f"stats/{name}")
                mean = None if group is None else group["mean"][()].tolist()
                std = None if group is None else group["std"][()].tolist()
                told[f"mean of {name} on train"] = (mean, stats.mean)
                told[f"std of {name} on train"] = (std, stats.std)
    except (OSError, KeyError, RuntimeError, ValueError) as e:
        raise DataError(f"{path}: not a readable HDF5 shard: {_first_line(e)}") from e
    for what, (found, expected) in told.items():
        if found != expected:
            raise DataError(
                f"{path}: {what} is {_short(found)}, the manifest says {_short(expected)}"
                + ("; this shard belongs to another dataset" if what == "dataset_uid" else "")
            )


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


class ShardReader:
    """Chunks of one shard, decoded, by number: for checks, and for compressed data.

    Parameters
    ----------
    path
        The shard.
    manifest, entry
        What is known of it.
    """

    def __init__(self, path: Path, manifest: Manifest, entry: ShardEntry):
        self.path, self.manifest, self.entry = path, manifest, entry
        try:
            self._file = h5py.File(path, "r", locking=False, rdcc_nbytes=0)
        except OSError as e:
            raise DataError(f"{path}: cannot be opened: {_first_line(e)}") from None
        self._crc: dict[str, np.ndarray] = {}

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def box(self, array: str, chunk: int) -> tuple[slice, slice]:
        """Items and rows that a chunk holds."""
        spec = self.manifest.arrays[array]
        item, part = divmod(chunk, spec.chunks_per_item)
        first = item * spec.items_per_chunk
        last = min(first + spec.items_per_chunk, self.entry.count)
        row = part * spec.rows_per_chunk
        return slice(first, last), slice(row, min(row + spec.rows_per_chunk, spec.rows))

    def read_chunk(self, array: str, chunk: int) -> np.ndarray:
        """Valid items of a chunk, contiguous.

        Raises
        ------
        DataError
            If it cannot be read or decompressed.
        """
        spec = self.manifest.arrays[array]
        items, rows = self.box(array, chunk)
        shape = (items.stop - items.start, *spec.shape)
        if spec.shape:
            shape = (shape[0], rows.stop - rows.start, *spec.shape[1:])
        out = np.empty(shape, spec.dtype)
        try:
            source = (items, rows) if spec.shape else (items,)
            self._file[array].read_direct(out, source_sel=source)
        except (OSError, RuntimeError, KeyError) as e:
            raise DataError(
                f"{self.path}: chunk {chunk} of {array} (items {self._where(items)}) "
                f"cannot be read: {_first_line(e)}"
            ) from e
        return out

    def _where(self, items: slice) -> str:
        first = self.entry.first
        return f"{first + items.start}-{first + items.stop - 1} of {self.entry.split}"

    def crc(self, array: str) -> np.ndarray:
        """Recorded checksums of all chunks, uint32."""
        if array not in self._crc:
            try:
                self._crc[array] = self._file[f"integrity/{array}_crc32"][()]
            except (OSError, RuntimeError, KeyError) as e:
                raise DataError(
                    f"{self.path}: checksums of {array} cannot be read: {_first_line(e)}"
                ) from e
        return self._crc[array]

    def check(self, array: str, chunk: int, values: np.ndarray) -> None:
        """Compare a chunk's bytes with its checksum, and look for NaN and impossible labels.

        Raises
        ------
        DataError
            Naming file, chunk and items.
        """
        found, expected = zlib.crc32(values.data), int(self.crc(array)[chunk])
        items, _ = self.box(array, chunk)
        where = f"{self.path}: chunk {chunk} of {array} (items {self._where(items)})"
        if found != expected:
            raise DataError(
                f"{where} is corrupt: its CRC-32 is {found:08x}, recorded was {expected:08x}"
            )
        dtype = np.dtype(self.manifest.arrays[array].dtype)
        check_values(np.frombuffer(values, dtype), where)


def check_values(values: np.ndarray, where: str) -> None:
    """Refuse NaN and infinity.

    Raises
    ------
    DataError
        Beginning with ``where``, with the number of such values.
    """
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        bad = int((~np.isfinite(values)).sum())
        raise DataError(f"{where} holds {bad} values that are NaN or infinite, of {values.size}")


def check_labels(values: np.ndarray, classes: int, where: str) -> None:
    """Refuse labels outside ``0 .. classes - 1``.

    Raises
    ------
    DataError
        Beginning with ``where``, with the label and the number of classes.
    """
    if values.size and (int(values.min()) < 0 or int(values.max()) >= classes):
        at = int(np.flatnonzero((values < 0) | (values >= classes))[0])
        raise DataError(
            f"{where}: label {int(values.reshape(-1)[at])} at position {at} is out of range for "
            f"{classes} classes (0..{classes - 1})"
        )


def sha256(path: Path) -> str:
    """Of a whole file."""
    import hashlib

    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Have a file or folder on the disk before anything refers to it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
