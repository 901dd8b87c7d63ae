"""What happens to jobs on the real Slurm: signals, nodes that go, cancelling."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest
from patience import patient

from hpcsamp.run import checkpoint
from slurm.cluster import ROOT, Cluster
from slurm.test_train import submit

EPOCHS = 5  # 95 steps: some seconds


@pytest.fixture(scope="module")
def uninterrupted(slurm, long, tmp_path_factory):
    """The parameters' hash of the run that nothing happens to, on the same grid."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    job = submit(slurm, "train.sbatch", folder / "out", long, folder / "run")
    assert slurm.wait(job, 120) == "COMPLETED", (folder / "out").read_text()
    return json.loads((folder / "run" / "summary.json").read_text())["parameters_sha256"]


@pytest.fixture(scope="module")
def long(small, tmp_path_factory):
    text = small.read_text().replace("epochs = 2", f"epochs = {EPOCHS}")
    # slow enough that a test can step in, whatever else the machine does
    text = text.replace("samples = 6\n", "samples = 24\n")
    assert "samples = 24" in text
    path = tmp_path_factory.mktemp("long") / "long.toml"
    path.write_text(text)
    return path


def steps(run: Path) -> int:
    log = run / "metrics.jsonl"
    lines = log.read_text().splitlines()[:-1] if log.exists() else []
    return max((json.loads(line)["step"] for line in lines), default=0)


def starts(run: Path) -> list[int]:
    """The step at which each start began."""
    file = run / "provenance.json"
    return [s["step"] for s in json.loads(file.read_text())["starts"]] if file.exists() else []


def finished(slurm: Cluster, job: int, folder: Path) -> str:
    """The hash of the parameters of a job that must end well."""
    state = slurm.wait(job, 120)
    out = (folder / "out").read_text()
    assert state == "COMPLETED", out
    summary = json.loads((folder / "run" / "summary.json").read_text())
    assert summary["steps"] == EPOCHS * 19, out
    return summary["parameters_sha256"]


@pytest.mark.parametrize("script", ["train.sbatch", "train-mpirun.sbatch"])
def test_usr2_checkpoints_requeues_and_resumes(script, slurm, long, uninterrupted, tmp_path):
    run = tmp_path / "run"
    job = submit(slurm, script, tmp_path / "out", long, run)
    slurm.until(lambda: steps(run) >= 25, 60, "step 25")  # in mid-epoch
    batch = ["--batch"] if "mpirun" in script else []
    slurm.command("scancel", "--signal=USR2", *batch, str(job))
    slurm.until(lambda: len(starts(run)) == 2, 60, "second start")
    assert finished(slurm, job, tmp_path) == uninterrupted
    out = (tmp_path / "out").read_text()
    first, second = starts(run)
    assert (first, second >= 25) == (0, True)
    assert second % 19, "it stopped at the end of an epoch by chance"
    assert f"hpcsamp: stopped early: SIGUSR2; {second} of {EPOCHS * 19} steps are done" in out
    assert "Traceback" not in out
    assert f"resumed after step {second}" in out
    assert slurm.job(job)["Restarts"] == "1"


def test_a_node_goes_down(slurm, long, uninterrupted, tmp_path):
    run = tmp_path / "run"
    job = submit(slurm, "train.sbatch", tmp_path / "out", long, run)
    slurm.until(lambda: steps(run) >= 25, 60, "step 25")
    slurm.command("scontrol", "update", "nodename=n2", "state=down", "reason=test")
    try:
        slurm.until(lambda: slurm.state(job) == "PENDING", 30, "requeue")
        slurm.until(lambda: not slurm.processes("hpcsamp train"), 30, "end of the ranks")
    finally:
        slurm.command("scontrol", "update", "nodename=n2", "state=resume")
    assert finished(slurm, job, tmp_path) == uninterrupted
    assert starts(run)[1] >= 19  # from a checkpoint, not from the start


def test_a_job_that_hangs_goes_on_without_the_node(slurm, long, tmp_path):
    run = tmp_path / "run"
    job = slurm.sbatch(
        ROOT / "jobscripts" / "slurm" / "train.sbatch",
        *("--nodes=1", "--ntasks-per-node=2", "--cpus-per-task=1", "--time=5"),
        f"--output={tmp_path / 'out'}",
        arguments=[long, run, "--set", "training.stall=8"],
    )
    slurm.until(lambda: steps(run) >= 25, 60, "step 25")
    ranks = [p for p in slurm.processes("hpcsamp train") if "srun" not in command(p)]
    assert len(ranks) == 2
    os.kill(max(ranks), signal.SIGSTOP)
    slurm.until(lambda: len(starts(run)) == 2, 120, "second start")
    finished(slurm, job, tmp_path)
    told = json.loads((run / "stall.json").read_text())
    first, second = json.loads((run / "provenance.json").read_text())["starts"]
    assert told["hosts"] == list(first["hosts"])
    assert slurm.job(job)["ExcNodeList"] == told["exclude"] == told["hosts"][0]
    assert set(first["hosts"]) != set(second["hosts"])
    assert second["step"] >= 19
    assert told["job"] == str(job)
    assert f"stalled on {told['exclude']} (see" in (tmp_path / "out").read_text()


def command(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode()


@pytest.mark.parametrize("script", ["train.sbatch", "train-mpirun.sbatch"])
def test_scancel_leaves_nothing_behind(script, slurm, long, tmp_path):
    run = tmp_path / "run"
    job = submit(slurm, script, tmp_path / "out", long, run)
    slurm.until(lambda: steps(run) >= 25, 60, "step 25")
    began = time.monotonic()
    slurm.command("scancel", str(job))
    assert slurm.wait(job, 30) == "CANCELLED"
    slurm.until(lambda: not slurm.processes(), 15, "end of all processes")
    assert time.monotonic() - began < patient(10)
    newest = checkpoint.latest(run / "checkpoints")
    assert checkpoint.read(newest)["step"] >= 19
    assert not list((run / "checkpoints").glob(".*"))
    time.sleep(1)
    assert slurm.state(job) == "CANCELLED"  # and not requeued by its own script


def test_the_end_of_the_job_is_known(slurm, tmp_path):
    """Told by this Slurm itself, or asked for by the job script: what `Watch` gets."""
    script = tmp_path / "job.sh"
    script.write_text(
        "#!/bin/bash\nset -eu\nsource $SLURM_SUBMIT_DIR/jobscripts/lib.sh\nhpcsamp_deadline\n"
        f"echo ${{SLURM_JOB_END_TIME:-$HPCSAMP_END_TIME}} > {tmp_path}/end\n"
        f"date +%s > {tmp_path}/now\n"
    )
    job = slurm.sbatch(script, "--time=7", f"--output={tmp_path}/out")
    assert slurm.wait(job, 30) == "COMPLETED", (tmp_path / "out").read_text()
    end, now = (int((tmp_path / name).read_text()) for name in ("end", "now"))
    assert 400 <= end - now <= 420
