"""One HDF5 file written by all ranks, which netCDF readers (xarray) can open.

Rank 0 creates the file with plain HDF5: every array is contiguous and allocated, axes and
coordinates are dimension scales, units and descriptions are attributes. Then each rank writes the
rows of its items at their offsets in the file, with positional writes and without the HDF5 library.
So writing is parallel with any build of h5py, and cannot deadlock with the collective reads of the
prefetch thread, as collective HDF5 writes of the main thread do even on another communicator. The
file has a temporary name until it is complete.
"""

from __future__ import annotations

import os
import shutil
import zlib
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np

from hpcsamp.data.slabs import Box, grid_of, shape_of
from hpcsamp.errors import UsageError
from hpcsamp.files import part_of, publish
from hpcsamp.grid import Topology, together
from hpcsamp.locks import Lock
from hpcsamp.prediction.boxes import pieces, stored_bytes
from hpcsamp.sealing import regions
from hpcsamp.tasks.layout import FileLayout, FileVariable


class ParallelFile:
    """A file that all ranks write. The constructor and :meth:`finish` are collective.

    Parameters
    ----------
    path
        Final name.
    overwrite
        Whether an existing file of this name may be replaced.
    lock
        On rank 0, the lock of the file. A job that lost the lock neither renames nor removes
        anything.

    Raises
    ------
    UsageError
        If the file exists, the disk is full, or it cannot be written; on all ranks.
    """

    def __init__(
        self,
        path: Path,
        layout: FileLayout,
        topology: Topology,
        *,
        overwrite: bool = False,
        lock: Lock | None = None,
    ) -> None:
        self._lock = lock
        self.path, self.layout, self.topology = path, layout, topology
        self._part = part_of(path)
        self._file = -1
        self._parts: list[tuple[int, int, int, int, int]] = []  # strided blocks
        self._open: dict[tuple[str, int], tuple[int, int]] = {}  # start and CRC by name and end
        offsets: dict[str, int] = {}
        with together(topology.world):
            if topology.is_root:
                check_target(path, overwrite)
                offsets = self._create()
        self._offsets = topology.world.bcast(offsets)
        with together(topology.world):
            try:
                self._file = os.open(self._part, os.O_WRONLY)
            except OSError as e:
                raise UsageError(
                    f"{self._part}: {e.strerror}; all ranks write this file, so it must be on a "
                    f"file system that all nodes share"
                ) from e

    def _create(self) -> dict[str, int]:
        try:
            free = shutil.disk_usage(self.path.parent).free
            needed = self.layout.bytes + sum(
                _filling(self.layout, n) for n in self.layout.variables
            )
            if free < needed:
                raise UsageError(
                    f"{self.path} needs {needed / 1e9:.3g} GB, but its disk has "
                    f"{free / 1e9:.3g} GB free"
                )
            self._part.unlink(missing_ok=True)
            slabs = any(v.slab is not None for v in self.layout.variables.values())
            least = "v110" if slabs else "earliest"  # the implicit index exists since 1.10
            with h5py.File(self._part, "w", driver="sec2", libver=(least, "v110")) as f:
                return _make(f, self.layout)
        except OSError as e:
            raise UsageError(f"cannot write {self.path}: {e.strerror or e}") from e

    def write(
        self, name: str, rows: np.ndarray, values: np.ndarray, within: slice | None = None
    ) -> None:
        """Write some items of a variable; not collective.

        Parameters
        ----------
        rows
            ``(n,)`` positions on the first axis.
        values
            ``(n, ...)``.
        within
            Range of the second axis that the values cover; all of it by default.

        Raises
        ------
        UsageError
            If writing fails, e.g. because the disk is full.
        """
        shape = self.layout.shape(name)
        if self.layout.variables[name].slab is not None:
            spans = [(0, n) for n in shape[1:]]
            if within is not None:
                spans[0] = (within.start, within.stop)
            self.write_box(name, rows, values, tuple(spans))
            return
        dtype = np.dtype(self.layout.variables[name].dtype)
        values = np.ascontiguousarray(values, dtype)
        step = int(np.prod(shape[1:], dtype=np.int64)) * dtype.itemsize
        whole = within is None or within.stop - within.start == shape[1]
        begin = 0
        if within is not None:
            begin = within.start * int(np.prod(shape[2:], dtype=np.int64)) * dtype.itemsize
        assert values.shape[1:] == (
            shape[1:] if within is None else (within.stop - within.start, *shape[2:])
        ), (name, values.shape, shape)
        for low, high in _runs(rows):
            at = self._offsets[name] + int(rows[low]) * step + begin
            raw = values[low:high].reshape(-1).view(np.uint8).data
            pieces = 1 if whole else high - low
            size = len(raw) // pieces
            for i in range(pieces):
                self._pwrite(raw[i * size : (i + 1) * size], at + i * step)
            key, begun, crc = (name, at), at, 0
            if pieces == 1 and (name, at) in self._open:  # continues where an earlier part ended
                begun, crc = self._open.pop(key)
            crc = zlib.crc32(raw, crc)
            if pieces == 1:
                self._open[name, at + size] = begun, crc
            else:
                self._parts.append((at, size, max(step, size), pieces, crc))

    def write_box(self, name: str, rows: np.ndarray, values: np.ndarray, box: Box) -> None:
        """Write a box of some items of a variable; not collective. Boxes of ranks do not overlap.

        Parameters
        ----------
        rows
            ``(n,)`` positions on the first axis.
        values
            ``(n, *shape of the box)``.
        box
            ``(start, stop)`` for each axis but the first.

        Raises
        ------
        UsageError
            If writing fails, e.g. because the disk is full.
        """
        variable, shape = self.layout.variables[name], self.layout.shape(name)[1:]
        dtype = np.dtype(variable.dtype)
        assert values.shape == (len(rows), *shape_of(box)), (name, values.shape, box)
        step = stored_bytes(shape, variable.slab, dtype.itemsize)
        own = list(pieces(shape, variable.slab, box, dtype.itemsize)) if values.size else []
        for row, item in zip(rows.tolist(), values, strict=True):
            for piece in own:
                raw = np.ascontiguousarray(item[piece.at], dtype).reshape(-1).view(np.uint8).data
                at = self._offsets[name] + row * step + piece.offset
                for i in range(piece.count):
                    part = raw[i * piece.size : (i + 1) * piece.size]
                    self._pwrite(part, at + i * piece.stride)
                self._parts.append((at, piece.size, piece.stride, piece.count, zlib.crc32(raw)))

    def _pwrite(self, raw: memoryview, at: int) -> None:
        done = 0
        try:
            while done < len(raw):
                done += os.pwrite(self._file, raw[done:], at + done)
        except OSError as e:
            raise UsageError(f"cannot write {self.path}: {e.strerror}") from e

    def finish(self) -> None:
        """Complete and seal the file and give it its final name. Collective."""
        with together(self.topology.world):
            try:
                if not self.topology.is_root:  # rank 0 flushes it after sealing
                    os.fsync(self._file)
                self._close()
            except OSError as e:
                raise UsageError(f"cannot write {self.path}: {e.strerror}") from e
        whole = [(a, end - a, end - a, 1, crc) for (_, end), (a, crc) in self._open.items()]
        parts = self.topology.world.gather(regions.places([*self._parts, *whole]))
        with together(self.topology.world):
            if parts is not None:
                if self._lock is not None:
                    self._lock.check()
                try:
                    regions.seal(self._part, np.concatenate(parts))
                    publish(self._part, self.path)
                except OSError as e:
                    raise UsageError(f"cannot write {self.path}: {e.strerror}") from e

    def abandon(self) -> None:
        """Remove the incomplete file; not collective."""
        self._close()
        if self.topology.is_root and (self._lock is None or self._lock.held()):
            self._part.unlink(missing_ok=True)

    def _close(self) -> None:
        if self._file >= 0:
            file, self._file = self._file, -1
            os.close(file)


def check_target(path: Path, overwrite: bool) -> None:
    """Check that a file can be written at a path.

    Raises
    ------
    UsageError
        If the file exists, or its folder does not exist or is not writable.
    """
    if path.is_dir():
        raise UsageError(f"{path} is a folder; name a file")
    if path.exists() and not overwrite:
        raise UsageError(f"{path} already exists; --overwrite replaces it")
    if not path.parent.is_dir():
        raise UsageError(f"cannot write {path}: there is no folder {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise UsageError(f"cannot write {path}: no permission to write in {path.parent}")


def _make(f: h5py.File, layout: FileLayout) -> dict[str, int]:
    f.attrs.update(layout.attributes)
    for name, scale in layout.scales.items():
        data = _dataset(f, name, scale, (len(_known(scale)),))
        data.make_scale(name)
    offsets = {}
    for name, variable in layout.variables.items():
        data = _dataset(f, name, variable, layout.shape(name))
        for i, dim in enumerate(variable.dims):
            data.dims[i].attach_scale(f[dim])
        if variable.values is None:
            offsets[name] = _offset(data, variable)
    f.flush()
    return {k: int(v) for k, v in offsets.items() if v is not None}


def _dataset(
    f: h5py.File, name: str, variable: FileVariable, shape: tuple[int, ...]
) -> h5py.Dataset:
    if variable.values is not None:
        values = np.asarray(variable.values)
        if values.dtype.kind in "OSU":
            data = f.create_dataset(name, data=values.astype(object), dtype=h5py.string_dtype())
        else:
            data = f.create_dataset(name, data=values)
    else:
        plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        if variable.slab is None:
            plan.set_layout(h5py.h5d.CONTIGUOUS)
        else:
            plan.set_chunk((1, *variable.slab))
        plan.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        plan.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        kind = h5py.h5t.py_create(np.dtype(variable.dtype))
        h5py.h5d.create(f.id, name.encode(), kind, h5py.h5s.create_simple(shape), plan)
        data = f[name]
    data.attrs.update(variable.facts)
    return data


def _offset(data: h5py.Dataset, variable: FileVariable) -> int | None:
    """Position of the first value of an array in the file."""
    if variable.slab is None:
        found: int | None = data.id.get_offset()
        return found
    if not data.size:
        return None
    grid = grid_of(data.shape, data.chunks)
    ends = [tuple((n - 1) * w for n, w in zip(grid, data.chunks, strict=True)), (0,) * data.ndim]
    last, first = (data.id.get_chunk_info_by_coord(at).byte_offset for at in ends)
    size = int(np.prod(data.chunks)) * data.dtype.itemsize
    if last - first != (int(np.prod(grid)) - 1) * size:
        raise UsageError(f"this HDF5 does not store the slabs of {data.name} one after the other")
    return int(first)


def _filling(layout: FileLayout, name: str) -> int:
    """Number of bytes of padding in the slabs of a variable."""
    variable = layout.variables[name]
    if variable.slab is None:
        return 0
    (count, *shape), size = layout.shape(name), np.dtype(variable.dtype).itemsize
    more = stored_bytes(shape, variable.slab, size) - stored_bytes(shape, None, size)
    return count * more


def _known(scale: FileVariable) -> np.ndarray:
    assert scale.values is not None, "an axis has values"
    return scale.values


def _runs(rows: np.ndarray) -> Sequence[tuple[int, int]]:
    """Start and stop of each run of consecutive rows."""
    cuts = np.flatnonzero(np.diff(rows) != 1) + 1
    ends = [0, *cuts.tolist(), len(rows)]
    return [(a, b) for a, b in pairwise(ends) if b > a]
