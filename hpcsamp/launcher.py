"""How this process was started, by the variables that launchers leave, and whether MPI agrees.

A launcher that MPI does not understand starts N processes of which each takes itself for the only
one: N runs of one rank in one folder. So what the launcher states is compared with what MPI found,
by :func:`start`, before anything else is done.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING

from hpcsamp.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Number of processes, by launcher: Open MPI, MPICH and PALS and PMI-2, MVAPICH, jsrun.
SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE", "JSM_NAMESPACE_SIZE")
#: Rank of this process. Those of Slurm come last: mpirun starts its daemons by srun.
RANKS = (
    "OMPI_COMM_WORLD_RANK",
    "PMI_RANK",
    "PMIX_RANK",
    "PALS_RANKID",
    "MV2_COMM_WORLD_RANK",
    "JSM_NAMESPACE_RANK",
)
#: Prefixes of the variables by which a process finds the others.
_CONTACT = ("PMI_", "PMIX_", "PALS_", "OMPI_COMM_WORLD_", "MV2_COMM_WORLD_", "JSM_")


class ApartError(UsageError):
    """The launcher started several processes that MPI did not bring together.

    Raised by each of them, which know nothing of each other: ``rank`` is what the launcher calls
    this one, and the first reports it.
    """

    agreed = True

    def __init__(self, found: str, mend: str, rank: int = 0) -> None:
        super().__init__(f"{found}; use {mend}")
        self.found, self.mend, self.rank = found, mend, rank


def name(environment: Mapping[str, str]) -> str:
    """What started the ranks, for people."""
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
    """Whether mpirun, srun or the like started this process as a rank."""
    return any(v in environment for v in RANKS) or step_tasks(environment) > 1


def step_tasks(environment: Mapping[str, str]) -> int:
    """Tasks of the Slurm step that this process is one of; 0 outside of a step.

    A batch script is in none. Of a step with a terminal (``srun --pty``) the first task alone goes
    on, and the parts of a heterogeneous job count theirs alone.
    """
    tasks = environment.get("SLURM_STEP_NUM_TASKS", "")
    if not tasks.isdigit() or "SLURM_HET_SIZE" in environment:
        return 0
    return min(int(tasks), 1) if "SLURM_PTY_PORT" in environment else int(tasks)


def stated(environment: Mapping[str, str]) -> set[int]:
    """Numbers of processes that launchers state; empty if none does.

    Those of mpirun come before those of Slurm: in an allocation mpirun is a step of one task a
    node.
    """
    inner = {int(environment[v]) for v in SIZES if environment.get(v, "").isdigit()}
    return inner or {step_tasks(environment)} - {0}


def check(environment: Mapping[str, str], size: int, library: str = "this MPI") -> None:
    """Compare the launcher's number of processes with that of MPI.

    Raises
    ------
    ApartError
        If no launcher stated that number.
    """
    told = stated(environment)
    if not told or size in told:
        return
    count = max(told)
    if not any(v.startswith(_CONTACT) for v in environment):
        raise ApartError(
            f"srun started {count} processes that know nothing of each other: it offers no PMI",
            "srun --mpi=pmix (srun --mpi=list shows what Slurm was built with), or mpirun inside "
            "of the allocation; SLURM_STEP_NUM_TASKS=1 for processes that are meant to run apart",
            _rank(environment),
        )
    each = "each sees itself alone" if size == 1 else f"MPI joins {size} of them"
    raise ApartError(
        f"the launcher started {count} processes, but {each} ({library})",
        "the mpirun of the MPI that mpi4py uses; with Slurm srun --mpi=pmix",
        _rank(environment),
    )


def _rank(environment: Mapping[str, str]) -> int:
    """What the launcher calls this process."""
    ranks = (environment.get(v, "") for v in (*RANKS, "SLURM_PROCID"))
    return int(next((rank for rank in ranks if rank.isdigit()), 0))


def check_alone(environment: Mapping[str, str], reason: str) -> None:
    """Refuse to be one of several processes without mpi4py.

    Parameters
    ----------
    reason
        Why mpi4py cannot be imported.

    Raises
    ------
    ApartError
        If a launcher started several, or may have.
    """
    part = {"SLURM_HET_SIZE", "SLURM_STEP_ID"} <= environment.keys()  # of a heterogeneous job
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
    """Initialise MPI unless that was done, and compare it with the launcher.

    Raises
    ------
    ApartError
        If they disagree on the number of ranks.
    """
    library = MPI.Get_library_version().strip("\0 \n").split("\n")[0].split(",")[0]
    if not MPI.Is_initialized():
        hidden = False
        if "Open MPI" in library and not any(v.startswith(_CONTACT) for v in os.environ):
            # Open MPI ends a Slurm task without PMI, with a page of text from each. Other
            # libraries may have PMI-1 from Slurm, which needs no variables.
            check(os.environ, 1, library)
            hidden = True
        with _outside_of_a_step(os.environ, hidden):
            MPI.Init_thread(MPI.THREAD_MULTIPLE)
    check(os.environ, MPI.COMM_WORLD.Get_size(), library)


@contextmanager
def _outside_of_a_step(environment: MutableMapping[str, str], hide: bool) -> Iterator[None]:
    """Hide from Open MPI that this process, a task alone, is one of Slurm's."""
    names = ("SLURM_STEPID", "SLURM_STEP_ID") if hide else ()
    kept = {v: environment.pop(v) for v in names if v in environment}
    try:
        yield
    finally:
        environment.update(kept)
