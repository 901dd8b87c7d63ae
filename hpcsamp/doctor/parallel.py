"""Checks that use MPI and Horovod and verify the results."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from hpcsamp import serial
from hpcsamp.collectives import gpu_aware
from hpcsamp.doctor.check import Check
from hpcsamp.errors import one_line

if TYPE_CHECKING:
    from mpi4py import MPI

LEVELS = ("SINGLE", "FUNNELED", "SERIALIZED", "MULTIPLE")


def library(comm: MPI.Comm) -> Check:
    """Report the MPI library, the number of ranks, and whether MPI can be given GPU tensors.

    The number of ranks was compared with the launcher's when MPI started.
    """
    MPI = serial.library(comm)  # noqa: N806
    if MPI is serial:
        return without_mpi()
    version = MPI.Get_library_version().strip("\0 \n").split("\n")[0].split(",")[0]
    size = comm.Get_size()
    ranks = f"{size} ranks" if size > 1 else "1 rank (start doctor under mpirun to check more)"
    aware, why = gpu_aware.observed()
    memory = f"{'uses' if aware else 'does not use'} GPU memory itself ({why})"
    return Check("MPI", "ok", f"{version}, {ranks}; {memory}")


def without_mpi() -> Check:
    """Report why this process has no MPI: no mpi4py, or one that finds no MPI library."""
    found = f"{serial.Get_library_version()}: mpi4py "
    try:
        from mpi4py import MPI  # noqa: F401
    except ModuleNotFoundError as e:
        if e.name == "mpi4py":
            mend = "for several ranks: pip install 'hpcsamp[mpi]'"
            return Check("MPI", "warning", f"{found}is not installed", mend)
        found += f"cannot be imported ({one_line(str(e))})"
    except (ImportError, RuntimeError) as e:
        found += f"cannot be imported ({one_line(str(e))})"
    else:
        found += "works, but MPI was not started"
    return Check(
        "MPI",
        "warning",
        found,
        "for several ranks: load the MPI module that mpi4py was built for, or install an MPI "
        "library (apt install openmpi-bin), until python -m mpi4py --mpi-lib-version prints it",
    )


def thread_level(comm: MPI.Comm) -> Check:
    """Check that threads may call MPI, because a communicating thread prefetches batches."""
    MPI = serial.library(comm)  # noqa: N806
    level = MPI.Query_thread()
    if level < MPI.THREAD_MULTIPLE:
        return Check(
            "MPI threads",
            "problem",
            f"MPI_THREAD_{LEVELS[level]}, but hpcsamp needs MPI_THREAD_MULTIPLE",
            "use an MPI library that was built with thread support",
        )
    return Check("MPI threads", "ok", f"MPI_THREAD_{LEVELS[level]}")


def allreduce(comm: MPI.Comm) -> Check:
    """Check that a sum over all ranks is correct, and time a small sum."""
    import numpy as np

    MPI = serial.library(comm)  # noqa: N806
    rank, size = comm.Get_rank(), comm.Get_size()
    values, total = np.full(1 << 18, rank + 1.0), np.empty(1 << 18)  # 2 MiB
    comm.Allreduce(values, total)
    one, times = np.zeros(1), []
    for _ in range(21):
        began = time.perf_counter()
        comm.Allreduce(one, np.empty(1))
        times.append(time.perf_counter() - began)
    median = comm.allreduce(sorted(times)[10], op=MPI.MAX)
    if not bool((total == size * (size + 1) / 2).all()):
        return Check(
            "MPI allreduce",
            "problem",
            f"1 + ... + {size} over the ranks is {total[0]:g}, not {size * (size + 1) // 2}",
            "this MPI does not work here; try --mca pml ob1 (Open MPI), or another MPI library",
        )
    return Check("MPI allreduce", "ok", f"correct; 8 bytes in {median * 1e6:.0f} µs (median)")


def yielding(comm: MPI.Comm) -> Check:
    """Check that a waiting rank yields its core (Open MPI)."""
    MPI = serial.library(comm)  # noqa: N806
    name, variable = "waiting ranks", "OMPI_MCA_mpi_yield_when_idle"
    if "Open MPI" not in MPI.Get_library_version():
        return Check(name, "ok", "not Open MPI: nothing to set")
    if os.environ.get(variable) == "0":
        return Check(
            name,
            "warning",
            f"{variable}=0: a waiting rank keeps its core busy, which Horovod's thread and other "
            "ranks need",
            f"unset {variable} or set it to 1, unless there are more cores than ranks and threads",
        )
    return Check(name, "ok", f"yield their core ({variable}={os.environ.get(variable)})")


def horovod(comm: MPI.Comm) -> Check:
    """Check that a sum with Horovod is correct, as for gradients. Horovod is left running."""
    name = "Horovod"
    instead = "training uses mpi4py instead; to build Horovod: source envs/local.sh"
    os.environ.setdefault("HOROVOD_LOG_LEVEL", "error")
    if isinstance(comm, serial.Comm):
        return Check(name, "ok", "not needed by one process without MPI")
    try:
        import horovod
        import horovod.torch as hvd
    except Exception as e:  # a broken build fails in many ways: ImportError, OSError, ...
        # All ranks must know of the failure before any of them waits for the others.
        comm.allreduce(1)
        return Check(
            name, "warning", f"cannot be imported ({type(e).__name__}: {_line(e)})", instead
        )
    if comm.allreduce(0):
        return Check(name, "warning", "cannot be imported on another rank", instead)
    if not hvd.mpi_built():
        return Check(name, "warning", f"{horovod.__version__}, built without MPI", instead)
    import torch

    hvd.init(comm=comm)
    rank, size = comm.Get_rank(), comm.Get_size()
    total = hvd.allreduce(torch.full((1000,), rank + 1.0), op=hvd.Sum, name="hpcsamp.doctor")
    expected = size * (size + 1) / 2
    if hvd.size() != size or not bool((total == expected).all()):
        return Check(
            name,
            "problem",
            f"allreduce over {hvd.size()} of {size} ranks gave {float(total[0]):g}, "
            f"not {expected:g}",
            'build it against this MPI (source envs/local.sh), or set parallel.collectives = "mpi"',
        )
    nccl = bool(hvd.nccl_built())
    if torch.cuda.is_available() and not nccl:
        return Check(
            name,
            "warning",
            f"{horovod.__version__} works, but was built without NCCL: gradients pass through the "
            f"host",
            "build it with HOROVOD_GPU_OPERATIONS=NCCL where NCCL is installed",
        )
    transports = "MPI and NCCL" if nccl else "MPI"
    return Check(name, "ok", f"{horovod.__version__}, {transports}; allreduce is correct")


def _line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0]
