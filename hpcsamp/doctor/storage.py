"""Checks of parallel HDF5, the file system and shared memory."""

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
#: File systems shared by several nodes, where readers should not lock files.
SHARED = {"lustre", "gpfs", "beegfs", "nfs", "nfs4", "cephfs", "ceph", "wekafs", "panfs", "dvs",
          "fuse.glusterfs", "smb3", "cifs"}  # fmt: skip
SMALL_SHARED_MEMORY = 256 * 2**20


def parallel_hdf5(comm: MPI.Comm) -> Check:
    """Check that ranks read a file collectively, and that MPI-IO really did so."""
    import h5py

    MPI = serial.library(comm)  # noqa: N806
    name = "parallel HDF5"
    versions = f"h5py {h5py.__version__}, HDF5 {h5py.version.hdf5_version}"
    parallel = bool(h5py.get_config().mpi) and MPI is not serial
    if not comm.allreduce(parallel, op=MPI.LAND):
        return Check(
            name,
            "warning",
            f"{versions}, built without MPI",
            'all readers except "collective" work; to build h5py with MPI: source envs/local.sh',
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
            f"{versions}: a collective read in {where} returned wrong numbers",
            "try OMPI_MCA_io=romio321 (Open MPI) or another file system; until then use "
            'data.reader = "direct"',
        )
    if mode in (0, 1, 3):
        return Check(
            name,
            "warning",
            f"{versions}: correct, but a collective read was done {IO_MODES[mode]}",
            "collective reads need HDF5 1.10.2 or newer with working MPI-IO; other readers do not",
        )
    how = (
        "collectively"
        if mode is not None
        else "(HDF5 does not report whether the read was collective)"
    )
    return Check(name, "ok", f"{versions}: all ranks read in {where}, {how}")


def _temporary(comm: MPI.Comm) -> tuple[str, str]:
    """Write a small file on rank 0; return its path and a name for its folder. Collective.

    The file is written to the current folder, which all nodes share and which runs will use, or to
    the folder for temporary files if that is not writable.
    """
    import h5py
    import numpy as np

    written: tuple[str, str] | OSError | None = None
    if comm.Get_rank() == 0:
        for folder, where in ((Path.cwd(), "this folder"), (tempfile.gettempdir(), "TMPDIR")):
            path = Path(folder) / f".hpcsamp-doctor-{os.getpid()}.h5"
            try:
                with h5py.File(path, "w", driver="sec2") as f:
                    rows = np.arange(8.0 * comm.Get_size()).reshape(-1, 8)
                    f.create_dataset("x", data=rows, chunks=(1, 8))
            except OSError as e:
                written = e
            else:
                written = str(path), where
                break
    written = comm.bcast(written)
    if not isinstance(written, tuple):
        raise OSError(f"cannot write a test file: {written}")
    return written


def _collective_read(comm: MPI.Comm, path: str) -> tuple[bool, int | None]:
    """Return whether this rank's row is correct, and the I/O mode of MPI-IO (None if unknown)."""
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
    """Call H5Pget_mpio_actual_io_mode for the last transfer, which h5py does not wrap.

    The function is taken from the HDF5 library that h5py has loaded into this process.
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
    """Check the file system of the current folder, and whether HDF5 would lock files there."""
    kind = file_system_of(Path.cwd(), Path("/proc/mounts"))
    name, version = serial.running().get_vendor()
    return locking(kind, os.environ, f"{name} {version[0]}")


def locking(kind: str, environment: Mapping[str, str], mpi_library: str = "") -> Check:
    """Check the settings for a file system: no locks if nodes share it, ROMIO on Lustre.

    On Lustre, collective reads of Open MPI 4 are fastest with ROMIO (open-mpi/ompi issue 9479).
    """
    name = "file system"
    setting = environment.get("HDF5_USE_FILE_LOCKING", "")
    off = setting.upper() in ("FALSE", "0", "BEST_EFFORT")
    locks = f"HDF5_USE_FILE_LOCKING={setting}" if setting else "HDF5 locks files"
    if kind in SHARED and not off:
        return Check(
            name,
            "warning",
            f"{kind}, which is shared by nodes, and {locks}: opening files may fail or be slow",
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
            f"lustre, {locks}, and Open MPI 4's own MPI-IO (OMPIO), which is slow on Lustre",
            "export OMPI_MCA_io=romio321",
        )
    return Check(name, "ok", f"{kind} in this folder, {locks}")


def file_system_of(path: Path, mounts: Path) -> str:
    """Return the type of the file system of an absolute path, from a file like /proc/mounts."""
    best, kind = -1, "unknown"
    for line in mounts.read_text().splitlines() if mounts.is_file() else []:
        # Spaces in a mount point are written as \040.
        point, found = (part.replace("\\040", " ") for part in line.split()[1:3])
        if path.is_relative_to(point) and len(point) >= best:
            best, kind = len(point), found
    return kind


def shared_memory() -> Check:
    """Check the free shared memory for the ring of batches that the ranks of a node share."""
    from hpcsamp.grid.window import shared_memory_free

    return room(shared_memory_free())


def room(free: int) -> Check:
    """Return the result for a number of free bytes of shared memory."""
    name, mib = "shared memory", free / 2**20
    slots = 3
    if free < SMALL_SHARED_MEMORY:
        return Check(
            name,
            "warning",
            f"{mib:,.0f} MiB free: batches of more than {mib / slots:,.0f} MiB per node do not fit "
            f"in the shared ring of {slots} batches",
            "start a container with --shm-size (Docker) or --ipc=host; else choose a smaller batch",
        )
    return Check(
        name, "ok", f"{mib / 1024:,.1f} GiB free, for batches up to {mib / slots / 1024:,.1f} GiB"
    )
