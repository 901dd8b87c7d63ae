"""Starts a benchmark's own ranks when nobody else did."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence

from hpcsamp.errors import HpcsampError, UsageError


def launch(ranks: int, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
    """Run ``hpcsamp ARGUMENTS`` on some ranks of this machine and wait.

    Raises
    ------
    UsageError
        If there is no mpirun.
    HpcsampError
        If the ranks fail.
    """
    mpirun = shutil.which("mpirun") or shutil.which("mpiexec")
    if mpirun is None:
        raise UsageError("mpirun was not found; load an MPI module or source envs/local.sh")
    command = [mpirun, "-n", str(ranks), sys.executable, "-m", "hpcsamp", *arguments]
    done = subprocess.run(command, env={**os.environ, **environment}, check=False)
    if done.returncode:
        raise HpcsampError(f"{ranks} ranks ended with exit code {done.returncode}")


def peak_rss_mb(arguments: Sequence[str], environment: Mapping[str, str]) -> float:
    """Peak resident memory of ``python ARGUMENTS``, run alone, in MiB."""
    process = subprocess.Popen(
        [sys.executable, *arguments], env={**os.environ, **environment}, stdout=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise HpcsampError(f"{' '.join(arguments)} ended with exit code {process.returncode}")
    return usage.ru_maxrss / 1024
