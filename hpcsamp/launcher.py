"""Detect the launcher (mpirun, srun ...) from environment variables and check that MPI agrees.

If MPI does not support the launcher, each of N processes sees itself as the only one: N runs of
one rank would write to one folder. :func:`start` therefore compares the launcher's number of
processes with MPI's before anything else happens.
"""

from __future__ import annotations

import faulthandler
import os
from collections.abc import Mapping, MutableMapping
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING

from hpcsamp.errors import UsageError
from hpcsamp.explain import more

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Variables with the number of processes: Open MPI; MPICH, PALS and PMI-2; MVAPICH; jsrun.
SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE", "JSM_NAMESPACE_SIZE")
#: Variables with the rank of this process, except Slurm's: mpirun starts its daemons with srun.
RANKS = (
    "OMPI_COMM_WORLD_RANK",
    "PMI_RANK",
    "PMIX_RANK",
    "PALS_RANKID",
    "MV2_COMM_WORLD_RANK",
    "JSM_NAMESPACE_RANK",
)
#: Prefixes of the environment variables with which a process contacts the others.
_CONTACT = ("PMI_", "PMIX_", "PALS_", "OMPI_COMM_WORLD_", "MV2_COMM_WORLD_", "JSM_")


#: Seconds for which a rank waits for the others to start MPI. The watchdog needs MPI, and cannot
#: see that one of them was stopped before, or that its file system hangs.
LONGEST_START = 1800.0


class ApartError(UsageError):
    """Raised if the launcher started several processes that MPI did not connect.

    Every process raises it, because they cannot communicate; ``rank`` is the launcher's number of
    this process, and the first one prints the error.
    """

    agreed = True

    def __init__(self, found: str, mend: str, rank: int = 0) -> None:
        super().__init__(f"{found}; use {mend}{more('launcher')}")
        self.found, self.mend, self.rank = found, mend, rank


def name(environment: Mapping[str, str]) -> str:
    """Return the name of the launcher and its batch job for messages."""
    for variable, launcher in (
        ("OMPI_COMM_WORLD_SIZE", "mpirun (Open MPI)"),
        ("MPI_LOCALNRANKS", "mpiexec (MPICH)"),
        ("PALS_RANKID", "mpiexec (PALS)"),
        ("SLURM_STEP_ID", "srun"),
    ):
        if variable in environment:
            job = environment.get("SLURM_JOB_ID") or environment.get("PBS_JOBID")
            return f"{launcher} in job {job}" if job else launcher
    return "none"


def one_of_several(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether a launcher such as mpirun or srun started this process as a rank."""
    return any(v in environment for v in RANKS) or step_tasks(environment) > 1


def step_tasks(environment: Mapping[str, str]) -> int:
    """Return the number of tasks of this process's Slurm step; 0 outside of a step.

    A batch script belongs to no step. In a step with a terminal (``srun --pty``) only the first
    task runs, and each component of a heterogeneous job counts only its own tasks.
    """
    tasks = environment.get("SLURM_STEP_NUM_TASKS", "")
    if not tasks.isdigit() or "SLURM_HET_SIZE" in environment:
        return 0
    return min(int(tasks), 1) if "SLURM_PTY_PORT" in environment else int(tasks)


def stated(environment: Mapping[str, str]) -> set[int]:
    """Return the numbers of processes reported by launchers; empty if there are none.

    mpirun's number takes precedence over Slurm's: in an allocation mpirun is a step with one task
    per node.
    """
    inner = {int(environment[v]) for v in SIZES if environment.get(v, "").isdigit()}
    return inner or {step_tasks(environment)} - {0}


def check(environment: Mapping[str, str], size: int, library: str = "this MPI") -> None:
    """Compare the launcher's number of processes with MPI's.

    Raises
    ------
    ApartError
        If the launchers report a different number than MPI.
    """
    counts = stated(environment)
    if not counts or size in counts:
        return
    count = max(counts)
    if not any(v.startswith(_CONTACT) for v in environment):
        raise ApartError(
            f"srun started {count} processes that cannot find each other, because it offers no PMI",
            "srun --mpi=pmix (srun --mpi=list shows what Slurm was built with), or mpirun inside "
            "the allocation; set SLURM_STEP_NUM_TASKS=1 for processes that are meant to be "
            "independent",
            _rank(environment),
        )
    each = "each sees only itself" if size == 1 else f"MPI connects only {size} of them"
    raise ApartError(
        f"the launcher started {count} processes, but {each} ({library})",
        "the mpirun of the MPI that mpi4py uses; with Slurm srun --mpi=pmix",
        _rank(environment),
    )


def _rank(environment: Mapping[str, str]) -> int:
    """Return the rank that the launcher gave this process."""
    ranks = (environment.get(v, "") for v in (*RANKS, "SLURM_PROCID"))
    return int(next((rank for rank in ranks if rank.isdigit()), 0))


def check_alone(environment: Mapping[str, str], reason: str) -> None:
    """Refuse to run as one of several processes without mpi4py.

    Parameters
    ----------
    reason
        Reason why mpi4py cannot be imported.

    Raises
    ------
    ApartError
        If a launcher started several processes, or may have done so.
    """
    part = {"SLURM_HET_SIZE", "SLURM_STEP_ID"} <= environment.keys()  # a heterogeneous job
    several = one_of_several(environment) or part
    if max(stated(environment), default=2 if several else 1) == 1:
        return
    raise ApartError(
        f"the launcher started several processes, but mpi4py cannot be imported ({reason})",
        "an environment with pip install 'hpcsamp[mpi]' in which python -m mpi4py works, or start "
        "one process without a launcher",
        _rank(environment),
    )


def start(MPI: ModuleType) -> None:  # noqa: N803
    """Initialise MPI unless it is initialised, and compare its number of ranks with the launcher's.

    Raises
    ------
    ApartError
        If MPI and the launcher disagree on the number of ranks.
    """
    library = MPI.Get_library_version().strip("\0 \n").split("\n")[0].split(",")[0]
    if not MPI.Is_initialized():
        hidden = False
        if "Open MPI" in library and not any(v.startswith(_CONTACT) for v in os.environ):
            # Open MPI aborts in a Slurm task without PMI, and every task prints a page of text.
            # Other libraries may use Slurm's PMI-1, which needs no variables.
            check(os.environ, 1, library)
            hidden = True
        with _outside_of_a_step(os.environ, hidden), _all_ranks_start_in_time(os.environ):
            MPI.Init_thread(MPI.THREAD_MULTIPLE)
    check(os.environ, MPI.COMM_WORLD.Get_size(), library)


@contextmanager
def _outside_of_a_step(environment: MutableMapping[str, str], hide: bool) -> Iterator[None]:
    """Hide from Open MPI that this process, the only task of its step, belongs to a Slurm step."""
    names = ("SLURM_STEPID", "SLURM_STEP_ID") if hide else ()
    kept = {v: environment.pop(v) for v in names if v in environment}
    try:
        yield
    finally:
        environment.update(kept)


@contextmanager
def _all_ranks_start_in_time(environment: Mapping[str, str]) -> Iterator[None]:
    """End this process, and so the job, with a traceback if other ranks do not come.

    No thread of Python could do it: MPI holds the interpreter's lock as it starts.
    """
    several = max(stated(environment), default=1) > 1
    if several:
        faulthandler.dump_traceback_later(LONGEST_START, exit=True, file=2)
    try:
        yield
    finally:
        if several:
            faulthandler.cancel_dump_traceback_later()
