"""Kinds of tasks in whole runs: the same on every grid, evaluated, predicted and reported."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import launch

CASES = Path(__file__).with_name("task_cases.py")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Runs of all kinds on one rank, and on others."""
    folder = tmp_path_factory.mktemp("tasks")
    for ranks, samples in ((1, "world"), (3, "world"), (4, "2")):
        done = launch(ranks, str(CASES), str(folder), samples, timeout=300, cwd=CASES.parent)
        assert done.code == 0, done.err
    return folder


def test_any_grid_has_the_same_losses_and_metrics(runs):
    one, three, four = (json.loads((runs / f"{n}.json").read_text()) for n in (1, 3, 4))
    for other in (three, four):
        assert other.keys() == one.keys()
        for name, found in one.items():
            assert found["losses"] == pytest.approx(other[name]["losses"], rel=1e-10)
            assert len(found["losses"]) > 4
            assert found["metrics"] == pytest.approx(other[name]["metrics"], rel=1e-9, abs=1e-11)
    assert set(one["own"]["metrics"]) == {"nll", "items"}


ARRAYS = {
    "tags": {"probabilities": ("index", "label"), "label_total": ("index", "label")},
    "blobs": {"probabilities": ("index", "row", "column", "class"), "predicted": (
        "index", "row", "column")},
    "visits": {"mean": ("index",), "std": ("index",)},
    "ratings": {"probabilities": ("index", "class")},
    "own": {"outputs": ("index", "output"), "log_density": ("index",)},
}  # fmt: skip
PICTURES = {"tags": "by-label", "blobs": "uncertain-maps", "visits": "coverage",
            "ratings": "confusion"}  # fmt: skip


def test_runs_are_evaluated_loaded_and_reported(runs, hpcsamp, monkeypatch):
    import hpcsamp as hs

    monkeypatch.syspath_prepend(str(CASES.parent))
    for name, arrays in ARRAYS.items():
        run = runs / f"{name}-1"
        done = hpcsamp(1, "evaluate", run, "--samples", "4", cwd=CASES.parent)
        assert done.code == 0, done.err
        told = json.loads((run / "evaluation" / "test.json").read_text())
        with h5py.File(run / "evaluation" / "test.h5") as f:
            for array, dims in arrays.items():
                assert tuple(d[0].name.strip("/") for d in f[array].dims) == dims
            if name == "tags":
                y, p = f["target"][:], f["probabilities"][:]
                assert f["label"].asstr()[:].tolist() == ["hot", "wet", "windy", "dark"]
                assert told["metrics"]["exact_match"] == pytest.approx(
                    ((p > 0.5) == y).all(1).mean()
                )
            if name == "blobs":
                right = f["target"][:] == f["predicted"][:]
                assert told["metrics"]["accuracy"] == pytest.approx(right.mean())
                assert f["class"].asstr()[:].tolist() == ["ground", "disc", "square"]
            if name == "own":
                density = f["log_density"][:]
                assert told["metrics"]["nll"] == pytest.approx(-density.mean())
        posterior = hs.load(run)
        x = np.zeros((3, *posterior.run.shapes.x), np.float32)
        found = posterior.predict(x, samples=4)
        assert "target" not in found
        assert set(arrays) - {"log_density"} <= set(found)
        if name in PICTURES:
            assert hpcsamp(1, "report", run).code == 0
            assert (run / "report" / f"{PICTURES[name]}.png").is_file()


def test_a_metric_of_another_task_is_refused_with_the_list(runs, hpcsamp, tmp_path):
    config = tmp_path / "c.toml"
    data = runs / "synthetic-tags-60"
    config.write_text(f'[data]\npath = "{data}"\n[model]\nname = "mlp"\n')
    done = hpcsamp(1, "train", config, "--set", "training.best=iou", "--output", tmp_path / "r")
    assert done.code == 2
    assert 'is not a metric of task = "multilabel"; choose one of nll, accuracy' in done.err
    done = hpcsamp(1, "train", config, "--set", "task=counts", "--output", tmp_path / "r")
    assert done.code == 2
    assert 'task = "counts" needs numbers' in done.err
    assert "is for multilabel" in done.err
    config.write_text(
        f'[data]\npath = "{tmp_path}/none"\nsynthetic = {{ like = "entsoe", items = 20 }}\n'
        '[model]\nname = "mlp"\n'
    )
    done = hpcsamp(1, "train", config, "--data", "synthetic", "--set", "task=counts", "--output",
                   tmp_path / "r")  # fmt: skip
    assert done.code != 0
    assert "counts must be whole numbers, 0 or more" in done.err
