"""One Slurm for the whole test run."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from slurm.cluster import HERE, Cluster


@pytest.fixture(scope="session")
def slurm() -> Iterator[Cluster]:
    """A real Slurm with nodes n1 and n2, two CPUs each; skipped where it cannot be installed."""
    try:
        done = subprocess.run(
            ["bash", str(HERE / "install.sh")], capture_output=True, text=True, timeout=280
        )
    except subprocess.TimeoutExpired:
        pytest.skip("no Slurm: its packages were not installed within 280 s")
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["tests/slurm/install.sh failed"])[-1]
        pytest.skip(f"no Slurm: {reason}")
    cluster = Cluster()
    cluster.start()
    yield cluster
    cluster.stop()
