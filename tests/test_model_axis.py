"""A network that is split over model ranks trains like the whole network, on every grid (law 1)."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from axis_runs import check_digest, check_evaluation, check_file, check_run, events, named
from conftest import launch
from model_axis_grids import EVALUATED, EVALUATIONS, GRIDS, RUNS_RESUMED, trained

import hpcsamp as hs

SCRIPT = Path(__file__).parent / "model_axis_cases.py"

RUN = """
seed = 3
task = "regression"
[data]
path = "{data}"
batch = 12
synthetic = {{ like = "era5", items = 30, grid = [4, 16] }}
[model]
name = "mixer"
strip = 4
width = 16
blocks = 1
[method]
name = "mean_field"
samples = 4
samples_per_pass = 1
[loss]
name = "expected_nll"
latitudes = "data"
[likelihood]
name = "gaussian"
std = 0.3
[optimizer]
name = "Adam"
lr = 1e-2
[training]
epochs = 2
log_every = 1
precision = "float64"
[parallel]
collectives = "mpi"
[evaluation]
samples = 4
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root: Path = tmp_path_factory.mktemp("model_axis")
    (root / "run.toml").write_text(RUN.format(data=root / "data"))
    done = launch(8, str(SCRIPT), str(root), timeout=400)
    assert done.code == 0, done.out[-3000:] + done.err[-3000:]
    return root


CASES = [(named(grid), run) for grid in GRIDS[1:] for run in trained(grid)]
CASES += [("resumed", run) for run in RUNS_RESUMED]


@pytest.mark.parametrize(("grid", "run"), CASES)
def test_it_is_the_run_of_one_process(grid, run, folder):
    check_run(folder / grid / run, folder / "1x1x1" / run)
    if grid != "resumed":
        check_digest(folder / grid / run)


def test_in_half_precision_it_is_nearly_the_run_of_one_process(folder):
    found, wanted = (events(folder / grid / "bfloat16") for grid in ("1x1x2", "1x1x1"))
    losses = [key for key in wanted if key[0] == "train"]
    assert len(losses) == 4
    for key in losses:
        assert found[key]["loss"] == pytest.approx(wanted[key]["loss"], rel=2e-2), key


@pytest.mark.parametrize("name", EVALUATED)
@pytest.mark.parametrize("grid", [named(grid) for grid in EVALUATIONS[1:]])
def test_evaluations_and_predictions_are_those_of_one_process(grid, name, folder):
    of = folder / "evaluated"
    wanted = check_evaluation(of / grid, of / "1x1x1", name)
    assert {"nll", "rmse", "crps"} < wanted.keys()
    assert any(key.startswith("ood_auroc") for key in wanted)


@pytest.mark.parametrize("name", EVALUATED)
def test_a_run_in_parts_opens_in_one_process(name, folder):
    posterior = hs.load(folder / "runs" / name)
    found = posterior.predict(Path(posterior.config.data.path), split="test", keep_samples=True)
    with h5py.File(folder / "evaluated" / "1x1x2" / f"{name}.h5") as f:
        assert f["samples"].shape[:2] == (f["mean"].shape[0], 4)
        for array in ("mean", "std", "std_epistemic", "quantiles", "samples"):
            expected = f[array][:]
            assert np.abs(found[array].values - expected).max() <= 1e-10 * np.abs(expected).max()


def test_commands_take_the_ranks_that_there_are(folder, tmp_path):
    """The model axis of a run is kept where the ranks allow it, and else left out with a line."""
    told, of = {}, str(folder / "runs" / "mean_field")
    for ranks in (1, 2):
        out, file = tmp_path / f"{ranks}.json", tmp_path / f"{ranks}.h5"
        done = launch(ranks, "-m", "hpcsamp", "evaluate", of, "--json", str(out), timeout=100)
        assert done.code == 0, done.err
        assert ("the run's parallel.model = 2" in done.err) == (ranks == 1), done.err
        told[ranks] = json.loads(out.read_text())["metrics"]
        done = launch(ranks, "-m", "hpcsamp", "predict", of, "--out", str(file), timeout=100)
        assert done.code == 0, done.err
    assert told[2] == pytest.approx(told[1], rel=1e-10, abs=1e-12)
    check_file(tmp_path / "2.h5", tmp_path / "1.h5")
    done = launch(1, "-m", "hpcsamp", "evaluate", of, "--set", "parallel.model=2")
    assert done.code == 2
    assert "parallel.model = 2 is more than the 1 ranks of" in done.err
