"""Record the provenance of a submission: command, commit, packages, environment, datasets."""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import hpcsamp
from hpcsamp import provenance as origin
from hpcsamp.campaign.point import Point
from hpcsamp.campaign.points import Campaign
from hpcsamp.files import write_whole
from hpcsamp.sealing import edits
from hpcsamp.sealing.text import to_json

#: Prefixes of the environment variables that are recorded, because they influence a job.
ENVIRONMENT = (
    "CONDA_DEFAULT_ENV",
    "CUDA_",
    "FI_",
    "HDF5_",
    "HOROVOD_",
    "HPCSAMP_",
    "HSA_",
    "KMP_",
    "LD_LIBRARY_PATH",
    "LD_PRELOAD",
    "LOADEDMODULES",
    "MKL_",
    "MPICH_",
    "NCCL_",
    "NVIDIA_",
    "OMP_",
    "OMPI_MCA_",
    "PATH",
    "PSM2_",
    "PYTHONPATH",
    "ROCR_",
    "SLURM_CPU_BIND",
    "TORCH_",
    "UCX_",
    "VIRTUAL_ENV",
)
_SECRET = ("KEY", "TOKEN", "SECRET", "PASSWORD", "PASSWD")


def stamp(
    campaign: Campaign,
    folder: Path,
    points: Sequence[Point],
    hashes: Mapping[str, str],
    edited: Sequence[str],
) -> None:
    """Write ``provenance.json``, ``campaign.toml`` and the uncommitted changes as ``diff.patch``.

    Parameters
    ----------
    folder
        Folder of the submission.
    points
        Points that are submitted.
    hashes
        sha256 of every script and table.
    edited
        Names of the scripts and tables that were edited by hand.
    """
    git = origin.git_diff(Path(hpcsamp.__file__).parent)
    diff = git[1] if git else b""
    text = campaign.file.read_text("utf-8")
    write_whole(folder / "campaign.toml", text)
    if diff:
        write_whole(folder / "diff.patch", diff.decode(errors="surrogateescape"))
    facts = {
        "submitted": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(sys.argv),
        "host": platform.node(),
        "commit": git[0] if git else None,
        "diff_sha256": hashlib.sha256(diff).hexdigest() if diff else "",
        "campaign_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "site": campaign.site.model_dump(),
        "python": sys.version.split()[0],
        "packages": origin.packages(),
        "modules": origin.modules(),
        "environment": environment(os.environ),
        "datasets": campaign.datasets,
        "seeds": sorted({p.seed for p in points}),
        "points": len(points),
        "files": dict(hashes),
        "edited_by_hand": list(edited),
        "accepted_edits": edits.taken(),
    }
    write_whole(folder / "provenance.json", to_json(facts))


def environment(variables: Mapping[str, str]) -> dict[str, str]:
    """Return the variables to record: those of :data:`ENVIRONMENT` that hold no secret."""
    return {
        k: v
        for k, v in sorted(variables.items())
        if k.startswith(ENVIRONMENT) and not any(s in k.upper() for s in _SECRET)
    }
