"""A network in parts over model ranks trains as it does in one piece, on every grid (law 1)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from conftest import launch
from model_axis_grids import FEW, GRIDS, RESUMED, RUNS, RUNS_RESUMED

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


CASES = [
    ("x".join(map(str, grid)), run)
    for run in RUNS
    for grid in (GRIDS if run == "mean_field" else FEW)[1:]
] + [(f"resumed/{i}", run) for i in range(len(RESUMED)) for run in RUNS_RESUMED]


@pytest.mark.parametrize(("grid", "run"), CASES)
def test_it_is_the_run_of_one_process(grid, run, folder):
    own, truth = folder / grid / run, folder / "1x1x1" / run
    found, wanted = events(own), events(truth)
    assert found.keys() == wanted.keys()
    for at, expected in wanted.items():
        for key, value in expected.items():
            if isinstance(value, float) and key != "seconds":
                assert found[at][key] == pytest.approx(value, rel=1e-10, abs=1e-12), (at, key)
    mine, other = checkpoint(own), checkpoint(truth)
    assert mine.keys() == other.keys()
    for key, value in other.items():
        assert mine[key].shape == value.shape, key
        largest = float(value.abs().max()) if value.numel() else 0.0
        assert float((mine[key] - value).abs().max()) <= 1e-10 * max(largest, 1e-300), key


def events(run: Path) -> dict[tuple[str, int], dict]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {(e["event"], e["step"]): e for e in lines}


def checkpoint(run: Path) -> dict[str, torch.Tensor]:
    path = max((run / "checkpoints").glob("step-*.pt"))
    found = torch.load(path, weights_only=True)
    return dict(tensors({k: found[k] for k in ("method", "optimizer", "average") if k in found}))


def tensors(table, name=""):
    if isinstance(table, dict):
        for key, value in table.items():
            yield from tensors(value, f"{name}.{key}")
    elif isinstance(table, torch.Tensor) and table.is_floating_point():
        yield name, table
