"""Provenance of a run: code, packages, machine and command, recorded before the first step."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import hpcsamp
from hpcsamp import launcher
from hpcsamp.grid import Topology
from hpcsamp.provenance import git_state, modules, packages
from hpcsamp.serial import library


def collect(topology: Topology, seed: int) -> dict[str, Any]:
    """Collect the provenance of this start on rank 0, which records it. Collective over the world.

    The other ranks neither start git nor read the metadata of every package: a thousand ranks that
    do so at once wait for the file system.

    Returns
    -------
    dict
        ``started``, ``command``, ``seed``, ``git`` (commit and hash of the uncommitted diff of the
        hpcsamp checkout, None for an installed package), ``packages``, ``mpi``, ``hdf5``,
        ``launcher``, ``modules``, ``hosts``, ``grid``; empty on the other ranks.
    """
    hosts = topology.world.gather(platform.node())
    if hosts is None:
        return {}
    MPI = library(topology.world)  # noqa: N806
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(sys.argv),
        "folder": str(Path.cwd()),
        "seed": seed,
        "git": git_state(Path(hpcsamp.__file__).parent),
        "python": sys.version.split()[0],
        "packages": packages(),
        "mpi": {
            "library": MPI.Get_library_version().strip("\0 \n").split("\n")[0],
            "standard": ".".join(map(str, MPI.Get_version())),
        },
        "hdf5": _hdf5(),
        "launcher": launcher.name(os.environ),
        "modules": modules(),
        "hosts": {h: hosts.count(h) for h in dict.fromkeys(hosts)},
        "grid": {
            "world_size": topology.size,
            "data_size": topology.data_size,
            "sample_size": topology.sample_size,
            "device": str(topology.device),
        },
    }


def _hdf5() -> dict[str, Any]:
    import h5py

    return {"version": h5py.version.hdf5_version, "parallel": bool(h5py.get_config().mpi)}
