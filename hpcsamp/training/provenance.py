"""Where a run came from: code, packages, machine, command. Written before the first step."""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import hpcsamp
from hpcsamp.topology import Topology


def collect(topology: Topology, seed: int) -> dict[str, Any]:
    """Everything known about this start. Collective over the world; the same on every rank.

    Returns
    -------
    dict
        ``started``, ``command``, ``seed``, ``git`` (commit and hash of the uncommitted diff of the
        hpcsamp checkout, None for an installed package), ``packages``, ``mpi``, ``hdf5``,
        ``launcher``, ``modules``, ``hosts``, ``grid``.
    """
    from mpi4py import MPI

    hosts = topology.world.allgather(platform.node())
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(sys.argv),
        "folder": str(Path.cwd()),
        "seed": seed,
        "git": git_state(Path(hpcsamp.__file__).parent),
        "python": sys.version.split()[0],
        "packages": {
            d.metadata["Name"]: d.version
            for d in sorted(metadata.distributions(), key=lambda d: d.metadata["Name"].lower())
        },
        "mpi": {
            "library": MPI.Get_library_version().strip("\0 \n").split("\n")[0],
            "standard": ".".join(map(str, MPI.Get_version())),
        },
        "hdf5": _hdf5(),
        "launcher": launcher(os.environ),
        "modules": [m for m in os.environ.get("LOADEDMODULES", "").split(":") if m],
        "hosts": {h: hosts.count(h) for h in dict.fromkeys(hosts)},
        "grid": {
            "world_size": topology.size,
            "data_size": topology.data_size,
            "sample_size": topology.sample_size,
            "device": str(topology.device),
        },
    }


def launcher(environment: Any) -> str:
    """What started the ranks, by the variables it leaves."""
    for variable, name in (
        ("OMPI_COMM_WORLD_SIZE", "mpirun (Open MPI)"),
        ("MPI_LOCALNRANKS", "mpiexec (MPICH)"),
        ("PALS_RANKID", "mpiexec (PALS)"),
        ("SLURM_STEP_ID", "srun"),
    ):
        if variable in environment:
            job = environment.get("SLURM_JOB_ID") or environment.get("PBS_JOBID")
            return f"{name} in job {job}" if job else name
    return "none"


def git_state(folder: Path) -> dict[str, str] | None:
    """Commit and uncommitted difference of the checkout that holds ``folder``."""

    def git(*arguments: str) -> bytes:
        return subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            check=True,
            timeout=10,
        ).stdout

    try:
        commit = git("rev-parse", "HEAD").decode().strip()
        diff = git("diff", "HEAD")
    except (OSError, subprocess.SubprocessError):
        return None
    return {
        "commit": commit,
        "diff_sha256": hashlib.sha256(diff).hexdigest() if diff else "",
    }


def _hdf5() -> dict[str, Any]:
    import h5py

    return {"version": h5py.version.hdf5_version, "parallel": bool(h5py.get_config().mpi)}
