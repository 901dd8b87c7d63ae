"""What a process does once at its start: MPI, threads, device, and how it ends when it fails."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import traceback
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING

from hpcsamp import launcher, serial
from hpcsamp.errors import HpcsampError, UsageError, described, one_line

if TYPE_CHECKING:
    import torch
    from mpi4py import MPI


def mpi() -> ModuleType:
    """``mpi4py.MPI``, initialised before anything else (Horovod, h5py) can do it differently.

    Where it cannot be imported, a process that no launcher started as one of several has
    :mod:`hpcsamp.serial` instead.

    A rank that waits for others yields its core: on CPUs the ranks and Horovod's thread share them.

    Raises
    ------
    ApartError
        If MPI did not find the ranks that the launcher started, or cannot be imported by them.
    """
    os.environ.setdefault("OMPI_MCA_mpi_yield_when_idle", "1")
    try:
        if "mpi4py.MPI" not in sys.modules:
            import mpi4py

            mpi4py.rc.initialize, mpi4py.rc.finalize = False, True
        from mpi4py import MPI
    except (ImportError, RuntimeError) as e:  # RuntimeError: it finds no MPI library
        launcher.check_alone(os.environ, one_line(str(e)))
        return serial
    launcher.start(MPI)
    return MPI


def thread_share(mine: set[int], all_on_node: list[set[int]]) -> int:
    """Compute threads for a rank: its cores, divided by the ranks that may run on them too.

    Parameters
    ----------
    mine
        Cores this rank may use.
    all_on_node
        The same of every rank of the node, this one included.
    """
    sharing = sum(1 for cores in all_on_node if cores & mine)
    return max(1, len(mine) // max(1, sharing))


def limit_threads(node_comm: MPI.Comm) -> int:
    """Give each rank its part of the cores, unless ``OMP_NUM_THREADS`` says otherwise.

    Collective over the node. Returns the number of threads in use.
    """
    import torch

    cores = os.sched_getaffinity(0)
    fair = thread_share(cores, node_comm.allgather(cores))
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(fair)
    return torch.get_num_threads()


def bind_device(device: str, local_rank: int) -> torch.device:
    """The device of this rank.

    Some sites show each task one GPU, others all of the node's: with one visible it is
    ``cuda:0``, with several ``cuda:local_rank``.

    Raises
    ------
    UsageError
        If a GPU is asked for that this process does not see.
    """
    import torch

    visible = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "auto":
        device = "cuda" if visible else "cpu"
    if device == "cuda" and visible:
        device = f"cuda:{0 if visible == 1 else local_rank % visible}"
    try:
        chosen = torch.device(device)
    except RuntimeError as e:
        raise UsageError(f"parallel.device = {device!r} is not a device: auto, cpu, cuda") from e
    if chosen.type == "cuda":
        if not visible or (chosen.index or 0) >= visible:
            raise UsageError(f"{device} was asked for, but this process sees {visible} GPUs")
        torch.cuda.set_device(chosen)
    return chosen


def on_terminal() -> bool:
    """Whether a person watches standard output.

    mpirun gives its ranks a terminal of their own whatever becomes of their output, so under it the
    question is asked of mpirun.
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
    """Let the allocator keep what is freed, instead of returning it to the kernel each time.

    A step frees and allocates the same large tensors over and over; getting fresh pages for each
    took 4 % of a step. glibc only; elsewhere nothing happens.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of malloc.h
    mallopt(mmap_threshold, 1 << 30)
    mallopt(trim_threshold, (1 << 31) - 1)


def end_job(error: BaseException, tb: TracebackType | None = None) -> int:
    """Report an error and, where other ranks do not know of it yet, end the whole job.

    Returns the exit code if this process may simply return. An error that all ranks agreed on is
    printed by rank 0 alone; any other is printed by the rank that has it, and then ``MPI_Abort``
    ends the others, which would wait for ever.
    """
    world = serial.running().COMM_WORLD
    rank, size = world.rank, world.size
    said = _what_a_user_can_mend(error)
    code = error.exit_code if isinstance(error, HpcsampError) else 1
    agreed = isinstance(error, HpcsampError) and error.agreed
    if isinstance(error, launcher.ApartError):
        rank = error.rank
    if not agreed or rank == 0:
        where = f" [rank {rank} of {size}]" if size > 1 and not agreed else ""
        if said is None or os.environ.get("HPCSAMP_TRACEBACK"):
            traceback.print_exception(type(error), error, tb or error.__traceback__)
        word = error.word if isinstance(error, HpcsampError) else "error"
        sys.stderr.write(f"hpcsamp: {word}{where}: {described(error) if said is None else said}\n")
    sys.stdout.flush()
    sys.stderr.flush()
    if agreed and threading.current_thread() is threading.main_thread():
        # The first rank that ends makes its launcher send SIGTERM to the others: the job's exit
        # code would be that of a killed one.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if size > 1 and not agreed:
        world.Abort(code)
    return code


def _what_a_user_can_mend(error: BaseException) -> str | None:
    """The line about an error of a file or of memory as well as of the package; None for a bug."""
    if isinstance(error, HpcsampError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        where = (
            f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
        )
        return one_line(f"{where}{error.strerror}")
    return "there is not enough memory" if isinstance(error, MemoryError) else None


def install_excepthook() -> None:
    """Make an uncaught exception on one rank end the job on all of them."""

    def hook(kind: type[BaseException], error: BaseException, tb: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            sys.__excepthook__(kind, error, tb)
            return
        code = end_job(error, tb)
        if code != 1:  # a hook cannot choose the exit status, and 1 is Python's own
            os._exit(code)

    sys.excepthook = hook
