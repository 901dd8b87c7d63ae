"""Whole runs: the same on any grid, on either transport, and after any kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import environment, launch
from patience import patient

from hpcsamp.run import checkpoint


def losses(run: Path) -> list[float]:
    events = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [e["loss"] for e in events if e["event"] == "train"]


def parameters(run: Path) -> torch.Tensor:
    method = checkpoint.read(checkpoint.latest(run / "checkpoints"))["method"]
    return torch.cat([v.flatten() for _, v in sorted(method.items())])


def assert_same(run: Path, reference: Path) -> None:
    assert losses(run) == pytest.approx(losses(reference), rel=1e-10)
    want = parameters(reference)
    # of all together: one whose true gradient is zero has rounding for it, which Adam makes large
    assert (parameters(run) - want).norm() / want.norm() < 1e-10


def test_best_is_the_state_with_the_best_metric(hpcsamp, small, tmp_path):
    """Also of a run that goes on, which evaluates first if it ended with an epoch."""
    run = tmp_path / "run"
    best = run / "checkpoints/best.pt"

    def train(*more):
        options = ("-o", run, "--set=training.best=accuracy", "--set=training.epochs=5")
        done = hpcsamp(1, "train", small, *options, *more)
        assert done.code == 0, done.err

    train("--set=training.steps=38")
    train("--set=training.steps=76", "--resume")
    events = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    accuracy = {e["step"]: e["accuracy"] for e in events if e["event"] == "valid"}
    assert list(accuracy) == [19, 38, 57, 76]
    kept = checkpoint.read(best)
    assert kept["step"] == max(accuracy, key=lambda step: (accuracy[step], -step))
    assert kept["best"] == -max(accuracy.values())
    # a best that cannot be beaten is not
    last = checkpoint.latest(run / "checkpoints")
    checkpoint.save(last, {**checkpoint.read(last), "best": -1.5})
    before = best.read_bytes()
    train("--resume")
    assert best.read_bytes() == before


def test_a_run_folder_holds_what_the_design_says(hpcsamp, small, tmp_path):
    run = tmp_path / "run"
    done = hpcsamp(1, "train", small, "--output", run, "--set", "loss.temperature=0.5")
    assert done.code == 0, done.err
    assert "temperature 0.5" in done.out
    assert done.out.count("\x1b") == 0  # a batch log has no escape sequences
    summary = json.loads((run / "summary.json").read_text())
    for name in (
        "steps",
        "samples",
        "world_size",
        "sample_group_size",
        "data_group_size",
        "method",
        "loss",
        "metrics",
        "seconds_per_step",
        "items_per_second",
        "peak_rss_mb",
        "parameters_sha256",
    ):
        assert summary[name] is not None, name
    start = json.loads((run / "provenance.json").read_text())["starts"][0]
    assert {
        "git",
        "packages",
        "mpi",
        "hdf5",
        "hosts",
        "launcher",
        "modules",
        "command",
        "seed",
    } <= (start.keys())
    evaluated = hpcsamp(2, "evaluate", run, "--json", tmp_path / "t.json", "--samples", "7")
    assert evaluated.code == 0, evaluated.err
    assert "temperature 0.5" in evaluated.out
    table = json.loads((tmp_path / "t.json").read_text())
    assert 0.3 < table["metrics"]["accuracy"] <= 1
    import h5py

    with h5py.File(run / "evaluation" / "test.h5") as f:
        assert f["index"][:].tolist() == list(range(359))
        p = f["probabilities"][:]
        assert abs(p.sum(1) - 1).max() < 1e-5
        right = (p.argmax(1) == f["target"][:]).mean()
        assert right == pytest.approx(table["metrics"]["accuracy"])
    again = hpcsamp(1, "train", small, "--output", run)
    assert again.code == 2
    assert "--resume" in again.err


def start(arguments: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["mpirun", "-n", "2", sys.executable, "-m", "hpcsamp", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=environment(),
    )


def ranks_of(mpirun: int) -> list[int]:
    children = Path(f"/proc/{mpirun}/task/{mpirun}/children").read_text().split()
    return [int(c) for c in children if "hpcsamp" in Path(f"/proc/{c}/cmdline").read_text()]


def wait_for_step(job: subprocess.Popen[str], run: Path, step: int) -> None:
    until = time.monotonic() + patient(60)
    while time.monotonic() < until:
        log = run / "metrics.jsonl"
        if log.exists() and f'"step": {step},' in log.read_text():
            return
        time.sleep(0.01)
    job.kill()
    out, err = job.communicate()
    pytest.fail(f"step {step} was not reached: {out}\n{err}")


def test_killed_at_any_step_a_run_ends_with_the_same_bits(hpcsamp, small, tmp_path):
    common = [
        "train",
        str(small),
        "--set=training.epochs=4",
        "--set=training.checkpoint_every=5",
        "--set=training.precision=float32",
    ]
    whole = hpcsamp(2, *common, "--output", tmp_path / "whole")
    assert whole.code == 0, whole.err

    killed = tmp_path / "killed"
    for step, victim in ((13, "rank"), (41, "mpirun")):
        job = start([*common, "--output", str(killed), "--resume"])
        wait_for_step(job, killed, step)
        began = time.monotonic()
        os.kill(ranks_of(job.pid)[1] if victim == "rank" else job.pid, signal.SIGKILL)
        job.communicate(timeout=patient(20))
        assert time.monotonic() - began < patient(20)
        assert not (killed / "summary.json").exists()
    (killed / "checkpoints" / ".step-00000099.pt.part").write_bytes(b"half a checkpoint")
    done = hpcsamp(2, *common, "--output", killed, "--resume")
    assert done.code == 0, done.err
    assert "resumed after step" in done.out
    hashes = {
        json.loads((run / "summary.json").read_text())["parameters_sha256"]
        for run in (killed, tmp_path / "whole")
    }
    assert len(hashes) == 1
    assert losses(killed) == losses(tmp_path / "whole")
    assert not list((killed / "checkpoints").glob(".*"))
    starts = json.loads((killed / "provenance.json").read_text())["starts"]
    assert starts[0]["step"] == 0
    assert starts[2]["step"] >= 40


def test_a_run_goes_on_on_another_number_of_ranks(hpcsamp, small, tmp_path):
    whole, moved = tmp_path / "whole", tmp_path / "moved"
    assert hpcsamp(1, "train", small, "--output", whole).code == 0
    job = start(["train", str(small), "--output", str(moved), "--set=training.checkpoint_every=4"])
    wait_for_step(job, moved, 9)
    job.kill()
    job.communicate(timeout=patient(20))
    done = hpcsamp(
        3, "train", small, "--output", moved, "--resume", "--set=training.checkpoint_every=4"
    )
    assert done.code == 0, done.err
    assert_same(moved, whole)


def test_a_run_stops_after_so_many_steps_and_goes_on(hpcsamp, small, tmp_path, monkeypatch):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert hpcsamp(1, "train", small, "--output", whole).code == 0
    first: dict[Path, bytes] = {}
    for steps in (7, 7, 25):  # in the first epoch, nothing left to do, in the second
        done = hpcsamp(
            1, "train", small, "--output", parts, "--resume", f"--set=training.steps={steps}"
        )
        assert done.code == 0, done.err
        assert json.loads((parts / "summary.json").read_text())["steps"] == steps
        assert losses(parts) == losses(whole)[:steps]
        files = {p: p.read_bytes() for p in parts.rglob("*") if p.is_file()}
        if steps == 7:
            first = first or files
            assert files == first  # a finished run is left unchanged
    with monkeypatch.context() as other:  # the same distribution, other numbers
        other.setenv("HPCSAMP_NOISE", "portable")
        done = hpcsamp(1, "train", small, "--output", parts, "--resume")
        assert done.code == 1
        assert "a run with native noise, but this one would draw portable noise" in done.err
        done = hpcsamp(1, "evaluate", parts)
        assert done.code == 0, done.err
        assert done.err.count("native noise, but this machine draws portable noise") == 1
    differ = "os.environ['HPCSAMP_NOISE'] = forms[int(os.environ['OMPI_COMM_WORLD_RANK'])]"
    run = (
        f"from hpcsamp.cli import main; sys.argv = ['hpcsamp', 'evaluate', {str(parts)!r}]; main()"
    )
    job = f"import os, sys; forms = 'native', 'portable'; {differ}; {run}"
    done = launch(2, "-c", job)
    assert done.code == 2
    assert done.errors == [
        "hpcsamp: error: all ranks must use the same form of noise (HPCSAMP_NOISE), which is "
        "native on rank 0 and portable on rank 1"
    ]
    assert hpcsamp(1, "train", small, "--output", parts, "--resume").code == 0
    assert losses(parts) == losses(whole)
    assert torch.equal(parameters(parts), parameters(whole))


def test_bfloat16_and_clipping_train(hpcsamp, small, tmp_path):
    done = hpcsamp(
        1,
        "train",
        small,
        "--output",
        tmp_path / "run",
        "--set=training.precision=bfloat16",
        "--set=optimizer.clip=1.0",
        "--set=optimizer.name=AdamW",
        "--set=schedule.warmup_epochs=1",
    )
    assert done.code == 0, done.err
    found = losses(tmp_path / "run")
    assert all(v == v for v in found)
    data = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    train = [e for e in data if e["event"] == "train"]
    assert train[-1]["data"] < train[0]["data"]
    rates = [e["lr"] for e in train]
    assert rates[0] < rates[10] < rates[18]  # warm-up
    assert rates[-1] < rates[20]  # cosine


def test_a_regression_run_recovers_its_noise(hpcsamp, tmp_path):
    import numpy as np

    g = np.random.default_rng(0)
    x = g.normal(size=(600, 2))
    np.savez(tmp_path / "line.npz", x=x, y=x @ [1.0, -0.5] + 0.3 * g.normal(size=600))
    data = tmp_path / "line"
    assert hpcsamp(1, "ingest", "npz", tmp_path / "line.npz", "--out", data).code == 0
    (tmp_path / "line.toml").write_text(f"""
task = "regression"
data = {{ path = "{data}", batch = 60 }}
model = {{ name = "mlp", hidden = [] }}
method = {{ samples = 4, prior_std = 1.0 }}
loss = {{ kl = "monte_carlo" }}
likelihood = {{ name = "predicted_gaussian" }}
optimizer = {{ lr = 2e-2 }}
training = {{ epochs = 40, evaluate_every = 40 }}
""")
    run = tmp_path / "run"
    done = hpcsamp(2, "train", tmp_path / "line.toml", "--output", run)
    assert done.code == 0, done.err
    metrics = json.loads((run / "summary.json").read_text())["metrics"]
    # targets are as they are: the noise is 0.3, its best NLL log(0.3 sqrt(2 pi e)) = 0.215
    assert metrics["rmse"] == pytest.approx(0.3, rel=0.25)
    assert metrics["nll"] == pytest.approx(0.215, abs=0.25)
    assert 0.75 < metrics["coverage_90"] <= 1


def test_losses_that_leave_samples_alone_have_a_best_state(commands, tmp_path):
    """They have no density, so that there is no NLL to go by; mean_mse gets a noise that fits."""
    (tmp_path / "load.toml").write_text("""
task = "regression"
data = { path = "load", batch = 32, synthetic = { like = "entsoe", items = 100 } }
model = { name = "mlp", hidden = [8] }
method = { samples = 4 }
training = { epochs = 2 }
""")
    names = ("crps", "energy_score", "gaussian_moments_nll", "mean_mse")
    train = ["train", "load.toml", "--data", "synthetic"]
    lines = [[*train, f"--set=loss.name={name}", "--output", name] for name in names]
    done = commands(2, *lines, cwd=tmp_path)
    assert done.code == 0, done.err
    for name in names:
        told = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        events = [json.loads(x) for x in told]
        metric = "nll" if name == "mean_mse" else "rmse"
        assert ("nll" in events[-1]) == (metric == "nll")
        scores = [e[metric] for e in events if e["event"] == "valid"]
        assert checkpoint.read(tmp_path / name / "checkpoints/best.pt")["best"] == min(scores)
