"""Start MPI, threads and the device of a process, and report errors when it ends."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import traceback
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING

from hpcsamp import devices, launcher, serial
from hpcsamp.errors import HpcsampError, UsageError, described, one_line
from hpcsamp.imports import modules_by_name, without_collection

if TYPE_CHECKING:
    import torch
    from mpi4py import MPI


def mpi() -> ModuleType:
    """Return ``mpi4py.MPI``, initialised before Horovod or h5py can initialise it differently.

    If mpi4py cannot be imported, a process that was started alone gets :mod:`hpcsamp.serial`
    instead.

    A rank that waits for others yields its core, because on CPUs the ranks share the cores with
    Horovod's thread.

    Raises
    ------
    ApartError
        If MPI does not see the ranks that the launcher started, or they cannot import mpi4py.
    """
    os.environ.setdefault("OMPI_MCA_mpi_yield_when_idle", "1")
    try:
        if "mpi4py.MPI" not in sys.modules:
            import mpi4py

            mpi4py.rc.initialize, mpi4py.rc.finalize = False, True
        from mpi4py import MPI
    except (ImportError, RuntimeError) as e:  # RuntimeError: mpi4py finds no MPI library
        launcher.check_alone(os.environ, one_line(str(e)))
        return serial
    launcher.start(MPI)
    return MPI


def thread_share(mine: set[int], all_on_node: list[set[int]]) -> int:
    """Return the number of compute threads of a rank: its cores divided by the ranks sharing them.

    Parameters
    ----------
    mine
        Cores that this rank may use.
    all_on_node
        Cores that each rank of the node may use, this rank included.
    """
    sharing = sum(1 for cores in all_on_node if cores & mine)
    return max(1, len(mine) // max(1, sharing))


def limit_threads(node_comm: MPI.Comm) -> int:
    """Limit torch to a fair share of the cores, unless ``OMP_NUM_THREADS`` is set.

    Collective over the node. Returns the number of threads in use.
    """
    import torch

    cores = os.sched_getaffinity(0)
    fair = thread_share(cores, node_comm.allgather(cores))
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(fair)
    return torch.get_num_threads()


def bind_device(device: str, local_rank: int) -> torch.device:
    """Return the device of this rank and make it current.

    See :func:`hpcsamp.devices.choose`. Warnings are written by the first rank of a node.

    Raises
    ------
    UsageError
        If the requested GPU is not visible to this process, or does not work.
    """
    with without_collection(), modules_by_name():
        import torch

    seen = devices.observe() if device == "auto" or device.startswith("cuda") else devices.Seen()
    try:
        torch.device("cpu" if device == "auto" else device)
    except RuntimeError as e:
        raise UsageError(
            f"parallel.device = {device!r} is not a device: choose auto, cpu or cuda"
        ) from e
    name, warning = devices.choose(device, local_rank, seen)
    if warning and local_rank == 0:
        sys.stderr.write(f"hpcsamp: {warning}\n")
    chosen = torch.device(name)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
        devices.try_out(chosen)
    return chosen


def on_terminal() -> bool:
    """Whether standard output is shown on a terminal.

    mpirun gives each rank a pseudo-terminal even if their output goes to a file, so under mpirun
    its own standard output is checked.
    """
    if not sys.stdout.isatty():
        return False
    if "OMPI_COMM_WORLD_RANK" not in os.environ:
        return True
    try:
        with open(f"/proc/{os.getppid()}/fd/1") as launcher:
            return launcher.isatty()
    except OSError:
        return False


def reuse_freed_memory() -> None:
    """Let the allocator keep freed memory instead of returning it to the kernel.

    Every step frees and allocates the same large tensors; obtaining new pages for them took 4 % of
    a step. Works with glibc only and has no effect elsewhere.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of malloc.h
    mallopt(mmap_threshold, 1 << 30)
    mallopt(trim_threshold, (1 << 31) - 1)


def end_job(error: BaseException, tb: TracebackType | None = None) -> int:
    """Report an error and, if other ranks do not know of it, end the whole job.

    Returns the exit code if this process may simply return. Rank 0 prints an error that all ranks
    know. Any other error is printed by the rank on which it occurred, which then calls
    ``MPI_Abort``, because the other ranks would wait forever.
    """
    world = serial.running().COMM_WORLD
    rank, size = world.rank, world.size
    line = _line(error)
    code = error.exit_code if isinstance(error, HpcsampError) else 1
    agreed = isinstance(error, HpcsampError) and error.agreed
    if isinstance(error, launcher.ApartError):
        rank = error.rank
    if not agreed or rank == 0:
        where = f" [rank {rank} of {size}]" if size > 1 and not agreed else ""
        if line is None or os.environ.get("HPCSAMP_TRACEBACK"):
            traceback.print_exception(type(error), error, tb or error.__traceback__)
        word = error.word if isinstance(error, HpcsampError) else "error"
        sys.stderr.write(f"hpcsamp: {word}{where}: {described(error) if line is None else line}\n")
    sys.stdout.flush()
    sys.stderr.flush()
    if agreed and threading.current_thread() is threading.main_thread():
        # When the first rank ends, its launcher sends SIGTERM to the others, and the job would
        # have the exit code of a killed rank.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if size > 1 and not agreed:
        world.Abort(code)
    return code


def _line(error: BaseException) -> str | None:
    """Return the line for an error of the package, a file or memory; None for a bug."""
    if isinstance(error, HpcsampError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        where = (
            f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
        )
        return one_line(f"{where}{error.strerror}")
    return "there is not enough memory" if isinstance(error, MemoryError) else None


def install_excepthook() -> None:
    """Make an uncaught exception on one rank end the job on all ranks."""

    def hook(kind: type[BaseException], error: BaseException, tb: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            sys.__excepthook__(kind, error, tb)
            return
        code = end_job(error, tb)
        if code != 1:  # a hook cannot set the exit status; Python's default is 1
            os._exit(code)

    sys.excepthook = hook
