"""Read shards: compare headers with the manifest and chunks with their checksums.

The content of a shard is described in :mod:`hpcsamp.data.shard_writer`.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from hpcsamp.data.manifest import Manifest, ShardEntry
from hpcsamp.data.roles import Missing, Target
from hpcsamp.data.slabs import shape_of, slab_box, slices
from hpcsamp.errors import DataError
from hpcsamp.sealing import DamagedError, regions


def check_header(folder: Path, manifest: Manifest, entry: ShardEntry) -> None:
    """Compare a shard's size, seal, attributes, shapes and statistics with the manifest.

    This is fast because items are not read.

    Raises
    ------
    DataError
        If they differ; the message names the file and both values.
    """
    path = folder / entry.file
    try:
        size = path.stat().st_size
    except OSError as e:
        raise DataError(
            f"{path}: the manifest lists this shard, but it cannot be read: {e.strerror}"
        ) from None
    if size != entry.size:
        raise DataError(f"{path} has {size} bytes, but {entry.size} according to the manifest")
    if path.resolve().parent != folder.resolve():
        raise DataError(
            f"{path}: this shard is a link to a file outside its dataset, in "
            f"{path.resolve().parent}"
        )
    try:
        if not regions.check(path) and manifest.schema_version > 1:
            raise DamagedError("its seal is missing")
    except (DamagedError, OSError) as e:
        raise DataError(f"{path} is damaged: {_first_line(e)}") from None
    try:
        with h5py.File(path, "r", locking=False) as f:
            values = {
                "schema_version": (f.attrs.get("schema_version"), manifest.schema_version),
                "dataset_uid": (f.attrs.get("dataset_uid"), manifest.uid),
                "split": (f.attrs.get("split"), entry.split),
                "first": (f.attrs.get("first"), entry.first),
                "count": (f.attrs.get("count"), entry.count),
            }
            for name, spec in manifest.arrays.items():
                if name not in f:
                    raise DataError(f"{path} has no array {name!r}")
                values[f"shape of {name}"] = (f[name].shape, (entry.count, *spec.shape))
                values[f"type of {name}"] = (f[name].dtype.str, np.dtype(spec.dtype).str)
            for name, stats in manifest.stats.items():
                group = f.get(f"stats/{name}")
                mean = None if group is None else group["mean"][()].tolist()
                std = None if group is None else group["std"][()].tolist()
                values[f"mean of {name} over train"] = (mean, stats.mean)
                values[f"std of {name} over train"] = (std, stats.std)
    except (OSError, KeyError, RuntimeError, ValueError) as e:
        raise DataError(f"{path} is not a readable HDF5 shard: {_first_line(e)}") from e
    for what, (found, expected) in values.items():
        if found != expected:
            raise DataError(
                f"{path}: {what} is {_short(found)}, but {_short(expected)} in the manifest"
                + ("; this shard belongs to another dataset" if what == "dataset_uid" else "")
            )


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


class ShardReader:
    """Read decoded chunks of one shard by number, for checks and for compressed data.

    Parameters
    ----------
    path
        The shard.
    manifest, entry
        The manifest, and the shard's entry in it.
    """

    def __init__(self, path: Path, manifest: Manifest, entry: ShardEntry):
        self.path, self.manifest, self.entry = path, manifest, entry
        try:
            self._file = h5py.File(path, "r", locking=False, rdcc_nbytes=0)
        except OSError as e:
            raise DataError(f"{path} cannot be opened: {_first_line(e)}") from None
        self._crc: dict[str, np.ndarray] = {}

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def box(self, array: str, chunk: int) -> tuple[slice, ...]:
        """Slices of a chunk: its items, and the part of each along the axes of an item."""
        spec = self.manifest.arrays[array]
        item, part = divmod(chunk, spec.chunks_per_item)
        first = item * spec.items_per_chunk
        last = min(first + spec.items_per_chunk, self.entry.count)
        return slice(first, last), *slices(slab_box(spec.shape, spec.part_shape, part))

    def read_chunk(self, array: str, chunk: int) -> np.ndarray:
        """Read the items of a chunk into a contiguous array.

        Raises
        ------
        DataError
            If the chunk cannot be read or decompressed.
        """
        spec = self.manifest.arrays[array]
        box = self.box(array, chunk)
        shape = shape_of(tuple((s.start, s.stop) for s in box))
        out = np.empty(shape, spec.dtype)
        try:
            self._file[array].read_direct(out, source_sel=box)
        except (OSError, RuntimeError, KeyError) as e:
            raise DataError(
                f"{self.path}: {self._where(array, chunk)} cannot be read: {_first_line(e)}"
            ) from e
        return out

    def _where(self, array: str, chunk: int) -> str:
        """Describe a chunk and its items for messages."""
        first, (items, *within) = self.entry.first, self.box(array, chunk)
        content = f"items {first + items.start}-{first + items.stop - 1} of {self.entry.split}"
        if self.manifest.arrays[array].slab is not None:
            slab = ", ".join(f"{s.start}:{s.stop}" for s in within)
            content = f"item {first + items.start} of {self.entry.split}, slab [{slab}]"
        return f"chunk {chunk} of {array} ({content})"

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
        """Compare a chunk's bytes with its checksum, and refuse NaN and infinity.

        Raises
        ------
        DataError
            If the chunk is corrupt; the message names the file, the chunk and its items.
        """
        found, expected = zlib.crc32(values.data), int(self.crc(array)[chunk])
        where = f"{self.path}: {self._where(array, chunk)}"
        if found != expected:
            raise DataError(
                f"{where} is corrupt: its CRC-32 is {found:08x}, but {expected:08x} was recorded"
            )
        dtype = np.dtype(self.manifest.arrays[array].dtype)
        target = self.manifest.targets_by_name.get(array)
        missing = None if target is None else target.missing
        check_values(np.frombuffer(values, dtype), where, missing)


def check_values(values: np.ndarray, where: str, missing: Missing | None = None) -> None:
    """Refuse NaN and infinity; NaN is accepted if it marks missing values.

    Raises
    ------
    DataError
        If there are such values; the message begins with ``where`` and states their number.
    """
    if values.dtype.kind != "f":
        return
    fine = np.isfinite(values)
    if missing == "nan":
        fine |= np.isnan(values)
    if not fine.all():
        bad = int((~fine).sum())
        raise DataError(f"{where}: {bad} of {values.size} values are NaN or infinite")


def check_ids(values: np.ndarray, where: str) -> None:
    """Refuse negative ids.

    Raises
    ------
    DataError
        If there are any; the message begins with ``where`` and names the first one.
    """
    if values.size and int(values.min()) < 0:
        raise DataError(
            f"{where}: the id {int(values[values < 0][0])} is negative, but ids count from 0 (give "
            "padding an id of its own); if these are measurements, ingest with --inputs numbers"
        )


def check_flags(values: np.ndarray, where: str) -> None:
    """Refuse flags that are neither 0 nor 1.

    Raises
    ------
    DataError
        If there are any; the message begins with ``where`` and names the first one.
    """
    if values.size and int(values.max()) > 1:
        raise DataError(
            f"{where}: the flag {int(values[values > 1][0])} is invalid; flags are 0 or 1"
        )


def check_target(values: np.ndarray, target: Target, where: str) -> None:
    """Refuse labels out of range, and numbers that are NaN or infinite but not marked as missing.

    Raises
    ------
    DataError
        If there are any; the message begins with ``where``.
    """
    if target.classes is None:
        check_values(values, where, target.missing)
    else:
        check_labels(values, target.classes, where, target.missing)


def check_weights(values: np.ndarray, where: str) -> None:
    """Refuse weights of items that are negative, NaN or infinite.

    Raises
    ------
    DataError
        If there are any; the message begins with ``where`` and names the first one.
    """
    check_values(values, where)
    if values.size and values.min() < 0:
        raise DataError(
            f"{where}: the weight {float(values[values < 0][0]):g} is negative; weights of items "
            f"must be 0 or larger"
        )


def check_labels(
    values: np.ndarray, classes: int, where: str, missing: Missing | None = None
) -> None:
    """Refuse labels outside ``0 .. classes - 1`` that do not mark missing labels.

    Raises
    ------
    DataError
        If there are any; the message begins with ``where`` and names the label and the number of
        classes.
    """
    if values.size and (int(values.min()) < 0 or int(values.max()) >= classes):
        wrong = (values < 0) | (values >= classes)
        if missing is not None:
            wrong &= values != missing
        if not wrong.any():
            return
        at = int(np.flatnonzero(wrong)[0])
        raise DataError(
            f"{where}: label {int(values.reshape(-1)[at])} at position {at} is out of range for "
            f"{classes} classes (0..{classes - 1})"
        )


def sha256(path: Path) -> str:
    """SHA-256 checksum of a file, in hexadecimal."""
    import hashlib

    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
