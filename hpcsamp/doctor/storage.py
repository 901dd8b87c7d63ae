"""Checks of what data comes through: parallel HDF5, the file system, shared memory."""

from __future__ import annotations

import ctypes
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from hpcsamp import serial
from hpcsamp.doctor.check import Check

if TYPE_CHECKING:
    import h5py
    from mpi4py import MPI

#: Values of H5D_mpio_actual_io_mode_t (H5Dpublic.h).
IO_MODES = {
    0: "independently",
    1: "independently",
    2: "collectively",
    3: "partly independently",
    4: "collectively",
}
#: File systems that several nodes share, where readers should not lock files.
SHARED = {"lustre", "gpfs", "beegfs", "nfs", "nfs4", "cephfs", "ceph", "wekafs", "panfs", "dvs",
          "fuse.glusterfs", "smb3", "cifs"}  # fmt: skip
SMALL_SHARED_MEMORY = 256 * 2**20


def parallel_hdf5(comm: MPI.Comm) -> Check:
    """Ranks read a file together, each its own rows, and MPI-IO really did it collectively."""
    import h5py

    MPI = serial.library(comm)  # noqa: N806
    name = "parallel HDF5"
    told = f"h5py {h5py.__version__}, HDF5 {h5py.version.hdf5_version}"
    parallel = bool(h5py.get_config().mpi) and MPI is not serial
    if not comm.allreduce(parallel, op=MPI.LAND):
        return Check(
            name,
            "warning",
            f"{told}, built without MPI",
            'every reader but "collective" works; to build it: source envs/local.sh',
        )
    path, where = _temporary(comm)
    try:
        right, mode = _collective_read(comm, path)
    finally:
        if comm.Get_rank() == 0:
            Path(path).unlink(missing_ok=True)
    if not right:
        return Check(
            name,
            "problem",
            f"{told}: a collective read in {where} gave other numbers than were written",
            "try OMPI_MCA_io=romio321 (Open MPI) or another file system; use "
            'data.reader = "direct" meanwhile',
        )
    if mode in (0, 1, 3):
        return Check(
            name,
            "warning",
            f"{told}: right, but a collective read was done {IO_MODES[mode]}",
            "needs HDF5 1.10.2 or newer with working MPI-IO; other readers do not",
        )
    how = "collectively" if mode is not None else "(HDF5 cannot be asked whether collectively)"
    return Check(name, "ok", f"{told}: read together in {where}, {how}")


def _temporary(comm: MPI.Comm) -> tuple[str, str]:
    """A small file that rank 0 has written: its path and what to call its place. Collective.

    In the current folder, which all nodes share and which is what will be used; if that cannot be
    written, in the folder for temporary files.
    """
    import h5py
    import numpy as np

    told: tuple[str, str] | OSError | None = None
    if comm.Get_rank() == 0:
        for folder, where in ((Path.cwd(), "this folder"), (tempfile.gettempdir(), "TMPDIR")):
            path = Path(folder) / f".hpcsamp-doctor-{os.getpid()}.h5"
            try:
                with h5py.File(path, "w", driver="sec2") as f:
                    rows = np.arange(8.0 * comm.Get_size()).reshape(-1, 8)
                    f.create_dataset("x", data=rows, chunks=(1, 8))
            except OSError as e:
                told = e
            else:
                told = str(path), where
                break
    told = comm.bcast(told)
    if not isinstance(told, tuple):
        raise OSError(f"cannot write a file to read: {told}")
    return told


def _collective_read(comm: MPI.Comm, path: str) -> tuple[bool, int | None]:
    """Whether this rank's row came back right, and how MPI-IO read it (None: not known)."""
    import h5py
    import numpy as np
    from h5py import h5fd, h5p, h5s

    rank, row = comm.Get_rank(), np.empty((1, 8))
    with h5py.File(path, "r", driver="mpio", comm=comm) as f:
        dataset = f["x"]
        there = dataset.id.get_space()
        there.select_hyperslab((rank, 0), (1, 8))
        transfer = h5p.create(h5p.DATASET_XFER)
        transfer.set_dxpl_mpio(h5fd.MPIO_COLLECTIVE)
        # `with dataset.collective: dataset[...]` would read independently (h5py 3.16).
        dataset.id.read(h5s.create_simple((1, 8)), there, row, dxpl=transfer)
        mode = _actual_mode(transfer)
    return bool((row == np.arange(8.0) + 8 * rank).all()), mode


def _actual_mode(transfer: h5py.h5p.PropDXID) -> int | None:
    """What H5Pget_mpio_actual_io_mode says of the last transfer; h5py does not offer it.

    The library is the one that h5py has loaded into this process.
    """
    for line in Path("/proc/self/maps").read_text().splitlines():
        file = line.split()[-1]
        if not re.search(r"/libhdf5[^/]*\.so", file) or "_hl" in file:
            continue
        get = getattr(ctypes.CDLL(file), "H5Pget_mpio_actual_io_mode", None)
        if get is None:
            continue
        get.argtypes = [ctypes.c_int64, ctypes.POINTER(ctypes.c_int)]
        mode = ctypes.c_int(-1)
        if get(transfer.id, ctypes.byref(mode)) >= 0:
            return mode.value
    return None


def file_system() -> Check:
    """What the current folder lies on, and whether HDF5 would lock files there."""
    kind = file_system_of(Path.cwd(), Path("/proc/mounts"))
    name, version = serial.running().get_vendor()
    return locking(kind, os.environ, f"{name} {version[0]}")


def locking(kind: str, environment: Mapping[str, str], mpi_library: str = "") -> Check:
    """Readers should not lock files on a file system that nodes share; on Lustre, Open MPI 4 reads
    collectively at its best with ROMIO (open-mpi/ompi issue 9479).
    """
    name = "file system"
    setting = environment.get("HDF5_USE_FILE_LOCKING", "")
    off = setting.upper() in ("FALSE", "0", "BEST_EFFORT")
    told = f"HDF5_USE_FILE_LOCKING={setting}" if setting else "HDF5 locks files"
    if kind in SHARED and not off:
        return Check(
            name,
            "warning",
            f"{kind}, which nodes share, and {told}: opening may fail or be slow",
            "export HDF5_USE_FILE_LOCKING=FALSE",
        )
    if (
        kind == "lustre"
        and environment.get("OMPI_MCA_io", "") == ""
        and mpi_library == "Open MPI 4"
    ):
        return Check(
            name,
            "warning",
            f"lustre, {told}, and Open MPI 4's own MPI-IO (OMPIO), which is slow there",
            "export OMPI_MCA_io=romio321",
        )
    return Check(name, "ok", f"{kind} in this folder, {told}")


def file_system_of(path: Path, mounts: Path) -> str:
    """Type of the file system that holds an absolute path, from a table like ``/proc/mounts``."""
    best, kind = -1, "unknown"
    for line in mounts.read_text().splitlines() if mounts.is_file() else []:
        # Spaces in a mount point are written as \040.
        point, found = (part.replace("\\040", " ") for part in line.split()[1:3])
        if path.is_relative_to(point) and len(point) >= best:
            best, kind = len(point), found
    return kind


def shared_memory() -> Check:
    """Room for the ring of batches that the ranks of a node share."""
    from hpcsamp.grid.window import shared_memory_free

    return room(shared_memory_free())


def room(free: int) -> Check:
    """A finding from the free bytes of shared memory."""
    name, mib = "shared memory", free / 2**20
    slots = 3
    if free < SMALL_SHARED_MEMORY:
        return Check(
            name,
            "warning",
            f"{mib:,.0f} MiB free: batches over {mib / slots:,.0f} MiB per node do not fit a ring "
            f"of {slots}",
            "in a container give it --shm-size (Docker) or --ipc=host; else choose a smaller batch",
        )
    return Check(
        name, "ok", f"{mib / 1024:,.1f} GiB free, for batches up to {mib / slots / 1024:,.1f} GiB"
    )
