"""Start the ranks of a benchmark that was not started by mpirun."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence

from hpcsamp.errors import HpcsampError, UsageError


def launch(ranks: int, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
    """Run ``hpcsamp ARGUMENTS`` on a number of ranks of this machine and wait until it ends.

    Raises
    ------
    UsageError
        If mpirun is not installed.
    HpcsampError
        If the ranks fail.
    """
    mpirun = shutil.which("mpirun") or shutil.which("mpiexec")
    if mpirun is None:
        raise UsageError("mpirun was not found; load an MPI module or source envs/local.sh")
    command = [mpirun, "-n", str(ranks), sys.executable, "-m", "hpcsamp", *arguments]
    done = subprocess.run(command, env={**os.environ, **environment}, check=False)
    if done.returncode:
        raise HpcsampError(f"{ranks} ranks failed with exit code {done.returncode}")


def peak_rss_mb_of(code: str, environment: Mapping[str, str]) -> float:
    """Run Python code in a separate process and return its peak resident memory in MiB.

    Raises
    ------
    HpcsampError
        If the process fails.
    """
    told = f"{code}; from hpcsamp.processes import peak_rss_mb; print(peak_rss_mb())"
    done = subprocess.run(
        [sys.executable, "-c", told],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        raise HpcsampError(f"python -c {code!r} failed with exit code {done.returncode}")
    return float(done.stdout.split()[-1])
