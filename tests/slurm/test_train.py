"""Job scripts on the real Slurm: the same numbers as anywhere else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from slurm.cluster import ROOT, Cluster

SHAPE = ("--nodes=2", "--ntasks-per-node=2", "--cpus-per-task=1", "--time=30")


def losses(run: Path) -> list[float]:
    events = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [e["loss"] for e in events if e["event"] == "train"]


def submit(slurm: Cluster, name: str, output: Path, *arguments: str | Path, **env: str) -> int:
    script = ROOT / "jobscripts" / "slurm" / name
    return slurm.sbatch(script, *SHAPE, f"--output={output}", arguments=arguments, **env)


@pytest.fixture(scope="module")
def reference(hpcsamp, small, tmp_path_factory):
    """The run on one process, and on four ranks of one machine, without Slurm."""
    runs = [tmp_path_factory.mktemp("reference") / name for name in ("one", "four")]
    for ranks, run in zip((1, 4), runs, strict=True):
        done = hpcsamp(ranks, "train", small, "--output", run, timeout=120)
        assert done.code == 0, done.err
    return runs


@pytest.mark.parametrize("script", ["train.sbatch", "train-mpirun.sbatch"])
def test_losses_do_not_depend_on_the_launcher(script, slurm, small, reference, tmp_path):
    job = submit(slurm, script, tmp_path / "out", small, tmp_path / "run")
    state = slurm.wait(job, 120)
    out = (tmp_path / "out").read_text()
    assert state == "COMPLETED", out
    for run in reference:
        assert losses(tmp_path / "run") == pytest.approx(losses(run), rel=1e-10)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["data_group_size"], summary["sample_group_size"]) == (2, 2)
    start = json.loads((tmp_path / "run" / "provenance.json").read_text())["starts"][0]
    assert start["hosts"] == {"n1": 2, "n2": 2}
    assert start["modules"][-1].startswith("hpcsamp/")
    assert str(job) in start["launcher"]
    assert "4 ranks on 2 nodes" in out
    assert "1 cores and 1 threads each" in out
    assert slurm.processes() == []
