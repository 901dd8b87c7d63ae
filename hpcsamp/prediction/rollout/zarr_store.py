"""A zarr store (format 2) that all ranks write without communication.

Each state (item, member, lead time) is one chunk, which is one file, so no two ranks ever write the
same file. The format is a few JSON files beside uncompressed arrays (zarr specification v2), and is
written without the zarr package. The folder has a temporary name until it is complete.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from hpcsamp.errors import UsageError
from hpcsamp.files import part_of, sync_names
from hpcsamp.grid import Topology, together
from hpcsamp.locks import Lock
from hpcsamp.prediction.rollout.layout import FORECAST
from hpcsamp.tasks.layout import FileLayout, FileVariable


class ZarrStore:
    """A forecast as a zarr store. The constructor and :meth:`finish` are collective.

    Parameters
    ----------
    path
        Final name of the folder.
    overwrite
        Whether an existing store of this name may be replaced.
    lock
        On rank 0, the lock of the store.

    Raises
    ------
    UsageError
        If the store exists or cannot be written; on all ranks.
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
        self.path, self.layout, self.topology, self._lock = path, layout, topology, lock
        self._part = part_of(path)
        with together(topology.world):
            if topology.is_root:
                check_store(path, overwrite)
                try:
                    self._create()
                except OSError as e:
                    raise UsageError(f"cannot write {path}: {e.strerror or e}") from e

    def _create(self) -> None:
        needed, free = self.layout.bytes, shutil.disk_usage(self.path.parent).free
        if free < needed:
            raise UsageError(
                f"{self.path} needs {needed / 1e9:.3g} GB, but its disk has {free / 1e9:.3g} GB "
                f"free"
            )
        if self._part.exists():
            shutil.rmtree(self._part)
        self._part.mkdir()
        known: dict[str, Any] = {".zgroup": {"zarr_format": 2}, ".zattrs": self.layout.attributes}
        for name, of in (self.layout.scales | self.layout.variables).items():
            folder = self._part / name
            folder.mkdir()
            if of.values is None:
                shape = self.layout.shape(name)
                meta = _array(shape, (1, 1, 1, *shape[3:]), np.dtype(of.dtype))
            else:
                values = np.asarray(of.values)
                values = values.astype(str) if values.dtype.kind == "O" else values
                values = values.astype(values.dtype.newbyteorder("<"))
                meta = _array(values.shape, values.shape, values.dtype)
                (folder / ".".join("0" * values.ndim)).write_bytes(values.tobytes())
            known[f"{name}/.zarray"], known[f"{name}/.zattrs"] = meta, _attributes(of)
        for file, content in known.items():
            (self._part / file).write_text(json.dumps(content, indent=1, default=str))
        whole = {"zarr_consolidated_format": 1, "metadata": known}
        (self._part / ".zmetadata").write_text(json.dumps(whole, indent=1, default=str))

    def write(self, rows: np.ndarray, members: range, lead: int, values: np.ndarray) -> None:
        """Write states of some members at a lead time; not collective.

        Parameters
        ----------
        rows
            ``(n,)`` positions of the items.
        lead
            Lead time, counted from 1.
        values
            ``(n, len(members), V, ...)``.

        Raises
        ------
        UsageError
            If writing fails, e.g. because the disk is full.
        """
        dtype = np.dtype(self.layout.variables[FORECAST].dtype)
        tail = ".0" * (values.ndim - 2)
        try:
            for row, item in zip(rows.tolist(), values, strict=True):
                for member, state in zip(members, item, strict=True):
                    file = self._part / FORECAST / f"{row}.{member}.{lead - 1}{tail}"
                    file.write_bytes(np.ascontiguousarray(state, dtype).tobytes())
        except OSError as e:
            raise UsageError(f"cannot write {self.path}: {e.strerror}") from e

    def finish(self) -> None:
        """Give the store its final name, after checking that all chunks exist. Collective."""
        self.topology.world.Barrier()
        with together(self.topology.world):
            if not self.topology.is_root:
                return
            if self._lock is not None:
                self._lock.check()
            expected = int(np.prod(self.layout.shape(FORECAST)[:3]))
            with os.scandir(self._part / FORECAST) as entries:
                found = sum(not e.name.startswith(".") for e in entries)
            if found != expected:
                raise UsageError(
                    f"{self.path}: {found} of {expected} chunks arrived; all ranks write this "
                    f"store, so it must be on a file system that all nodes share"
                )
            try:
                if self.path.exists():
                    shutil.rmtree(self.path)
                self._part.replace(self.path)
                sync_names(self.path.parent)
            except OSError as e:
                raise UsageError(f"cannot write {self.path}: {e.strerror}") from e

    def abandon(self) -> None:
        """Remove the incomplete store; not collective."""
        if self.topology.is_root and (self._lock is None or self._lock.held()):
            shutil.rmtree(self._part, ignore_errors=True)


def check_store(path: Path, overwrite: bool) -> None:
    """Check that a store can be written at a path.

    Raises
    ------
    UsageError
        If something exists there that may not be replaced, or the folder is not writable.
    """
    if path.exists() and not overwrite:
        raise UsageError(f"{path} already exists; --overwrite replaces it")
    if path.exists() and not (path / ".zgroup").is_file():
        raise UsageError(f"{path} is not a zarr store, so it is not replaced; choose another name")
    if not path.parent.is_dir():
        raise UsageError(f"cannot write {path}: there is no folder {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise UsageError(f"cannot write {path}: no permission to write in {path.parent}")


def _array(shape: tuple[int, ...], chunks: tuple[int, ...], dtype: np.dtype) -> dict[str, Any]:
    return {
        "zarr_format": 2,
        "shape": list(shape),
        "chunks": [max(1, n) for n in chunks],
        "dtype": dtype.str,
        "compressor": None,
        "fill_value": None,
        "order": "C",
        "filters": None,
    }


def _attributes(variable: FileVariable) -> dict[str, Any]:
    return {"_ARRAY_DIMENSIONS": list(variable.dims), **variable.facts}
