"""Write forecasts to a zarr store, to an HDF5 file, or to memory."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np

from hpcsamp.errors import UsageError
from hpcsamp.grid import Topology
from hpcsamp.locks import Lock
from hpcsamp.prediction.rollout.layout import FORECAST
from hpcsamp.prediction.rollout.zarr_store import ZarrStore, check_store
from hpcsamp.prediction.writer import ParallelFile, check_target
from hpcsamp.tasks.layout import FileLayout


class Store(Protocol):
    """An object that forecasts are written to."""

    def write(self, rows: np.ndarray, members: range, lead: int, values: np.ndarray) -> None:
        """Write ``(n, len(members), V, ...)`` states of items at a lead time, counted from 1."""

    def finish(self) -> None:
        """Complete the forecast. Collective."""

    def abandon(self) -> None:
        """Remove what was written; not collective."""


class Hdf5Store:
    """A forecast as one HDF5 file, see :class:`~hpcsamp.prediction.writer.ParallelFile`."""

    def __init__(self, file: ParallelFile) -> None:
        self._file = file

    def write(self, rows: np.ndarray, members: range, lead: int, values: np.ndarray) -> None:
        """See :class:`Store`."""
        grid = [(0, n) for n in self._file.layout.shape(FORECAST)[3:]]
        box = ((members.start, members.stop), (lead - 1, lead), *grid)
        self._file.write_box(FORECAST, rows, values[:, :, None], box)

    def finish(self) -> None:
        """See :class:`Store`."""
        self._file.finish()

    def abandon(self) -> None:
        """See :class:`Store`."""
        self._file.abandon()


class Memory:
    """A forecast in memory: ``values``, ``(count, members, steps, V, ...)``."""

    def __init__(self, layout: FileLayout) -> None:
        self.values = np.empty(layout.shape(FORECAST), layout.variables[FORECAST].dtype)

    def write(self, rows: np.ndarray, members: range, lead: int, values: np.ndarray) -> None:
        """See :class:`Store`."""
        self.values[rows, members.start : members.stop, lead - 1] = values

    def finish(self) -> None:
        """See :class:`Store`."""

    def abandon(self) -> None:
        """See :class:`Store`."""


def check_out(path: Path, overwrite: bool) -> None:
    """Check that a forecast can be written at a path; not collective.

    Raises
    ------
    UsageError
        If the ending is not known, or the path cannot be written.
    """
    if path.suffix == ".zarr":
        check_store(path, overwrite)
    elif path.suffix in (".h5", ".hdf5", ".nc"):
        check_target(path, overwrite)
    else:
        raise UsageError(
            f"--out {path}: forecasts are written as zarr or HDF5; name a .zarr or .h5 file"
        )


def open_store(
    path: Path, layout: FileLayout, topology: Topology, overwrite: bool, lock: Lock | None
) -> Store:
    """Create a zarr store or an HDF5 file, depending on the ending of a path. Collective."""
    if path.suffix == ".zarr":
        return ZarrStore(path, layout, topology, overwrite=overwrite, lock=lock)
    return Hdf5Store(ParallelFile(path, layout, topology, overwrite=overwrite, lock=lock))
