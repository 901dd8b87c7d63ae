"""Runs with several inputs, missing targets and weights of items: any grid, resumed, evaluated."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from several_sets import make_one

from hpcsamp import config
from hpcsamp.data import Dataset
from hpcsamp.errors import DataError, HpcsampError
from hpcsamp.grid import init
from hpcsamp.prediction.schema import as_trained
from hpcsamp.run import checkpoint
from hpcsamp.run.trained import Trained
from hpcsamp.training.loop import Trainer

CONFIG = """
seed = 3
task = "{task}"
[data]
path = "{data}"
batch = 12
[augment]
crop = 1
flip = true
[model]
name = "several_sets:OneOfPlants"
[method]
samples = 5
samples_per_pass = 2
prior_std = 1.0
initial_std = 0.3
[loss]
name = "{loss}"
[likelihood]
name = "{likelihood}"
[optimizer]
name = "SGD"
lr = 0.05
[training]
epochs = 2
precision = "float64"
log_every = 1
checkpoint_every = 3
[evaluation]
samples = 6
batch = 8
"""
CASES = {
    "kind": {"task": "classification", "loss": "predictive_nll", "likelihood": "categorical"},
    "size": {"task": "regression", "loss": "expected_nll", "likelihood": "gaussian"},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("several")
    for target, names in CASES.items():
        make_one(place / target, target)
        (place / f"{target}.toml").write_text(CONFIG.format(data=place / target, **names))
    return place


@pytest.fixture(scope="module")
def run(place, commands):
    """``run(ranks, ["train", ...], ...)``: in one job, where the network can be imported."""

    def run(ranks, *lines):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PYTHONPATH", str(Path(__file__).parent))
            done = commands(ranks, *lines, cwd=place, timeout=200)
        assert done.code == 0, done.err
        return done

    return run


@pytest.fixture(scope="module")
def alone(run, place):
    """Runs on one rank, evaluated; and one that is stopped."""
    lines = [
        line
        for target in CASES
        for line in (["train", f"{target}.toml", "-o", f"{target}-1"], ["evaluate", f"{target}-1"])
    ]
    run(1, *lines, ["train", "size.toml", "-o", "size-3", "--set=training.steps=7"])
    return {target: place / f"{target}-1" for target in CASES}


def parameters(run):
    method = checkpoint.read(checkpoint.latest(run / "checkpoints"))["method"]
    return torch.cat([v.flatten() for _, v in sorted(method.items())])


def events(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def assert_same(run, reference):
    one, other = parameters(run), parameters(reference)
    assert (one - other).norm() / other.norm() < 1e-10
    for a, b in zip(events(run), events(reference), strict=True):
        for name in {"loss", "nll", "accuracy", "rmse", "crps", "items"} & set(a):
            assert a[name] == pytest.approx(b[name], rel=1e-9), (a["step"], name)


def test_a_run_is_the_same_on_any_grid_and_when_it_goes_on(run, alone, place):
    make_one(place / "other", "kind", fractions={}, seed=5)
    run(
        4,
        ["train", "kind.toml", "-o", "kind-4", "--set=parallel.samples=2"],
        ["evaluate", "kind-4", "--set=parallel.samples=2"],
        ["predict", "kind-1", "--data", "other", "--out", "p.h5"],
    )
    assert_same(place / "kind-4", alone["kind"])
    run(
        3,
        ["train", "size.toml", "-o", "size-3", "--resume", "--set=parallel.samples=world"],
        ["evaluate", "size-3"],
    )
    assert [e for e in events(place / "size-3") if e["event"] == "test"]
    one, other = parameters(place / "size-3"), parameters(alone["size"])
    assert (one - other).norm() / other.norm() < 1e-10
    for target, ranks in (("kind", 4), ("size", 3)):
        found, truth = (
            json.loads((place / f"{target}-{n}" / "evaluation/test.json").read_text())["metrics"]
            for n in (ranks, 1)
        )
        assert found == pytest.approx(truth, rel=1e-9, nan_ok=True)


def test_metrics_leave_missing_targets_out_and_weigh_items(alone, place):
    for target, run in alone.items():
        told = json.loads((run / "evaluation/test.json").read_text())["metrics"]
        dataset = Dataset.open(place / target, "test")
        weight = dataset.read_all("weight")
        y = dataset.read_all("y")
        with h5py.File(run / "evaluation/test.h5") as f:
            held = {name: f[name][()] for name in f}
        known = y >= 0 if target == "kind" else ~np.isnan(y)
        assert not known.all()
        if target == "kind":
            assert np.array_equal(held["target"], y)
            p = held["probabilities"]
            right = p.argmax(1) == y
            w = weight * known
            assert told["items"] == known.sum()
            assert told["accuracy"] == pytest.approx((w * right).sum() / w.sum(), rel=1e-12)
            nll = -np.log(p[np.arange(len(y)), y.clip(0)])
            assert told["nll"] == pytest.approx((w * nll).sum() / w.sum(), rel=1e-9)
        else:
            assert np.array_equal(np.isnan(held["target"]), ~known)
            w = weight[:, None] * known
            square = np.where(known, held["mean"] - np.nan_to_num(held["target"]), 0) ** 2
            std = np.asarray(dataset.manifest.stats["y"].std)
            assert told["items"] == known.any(1).sum()
            assert told["rmse"] == pytest.approx(np.sqrt((w * square).sum() / w.sum()), rel=1e-9)
            each = np.sqrt(np.where(known, square / std**2, 0).sum(1) / known.sum(1).clip(1))
            some = known.any(1)
            assert np.allclose(held["error"][some], each[some], rtol=1e-9)
            assert np.isnan(held["error"][~some]).all()


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (
            {"rename": {"image": "picture"}},
            "inputs picture, age, but the run was trained on image, age",
        ),
        (
            {"units": {"age": "months"}},
            "age: units is 'months', but the run was trained on not given",
        ),
        ({"kinds": {"age": "values"}}, "age holds values, but the run was trained on numbers"),
    ],
)
def test_another_set_is_compared_input_by_input(place, tmp_path, options, line):
    make_one(tmp_path / "other", "kind", fractions={}, **options)
    with pytest.raises(DataError, match=line):
        as_trained(Dataset.open(tmp_path / "other"), Trained.of(place / "kind"))


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"augment": {"input": "age", "flip": True}}, r"height, width\) can be augmented: image"),
        ({"model": {"name": "mlp"}}, "mlp.*image, age"),
    ],
)
def test_what_cannot_be_augmented_or_built_is_refused(place, tmp_path, change, line):
    table = tomllib.loads((place / "kind.toml").read_text()) | change
    topology = init("none", device="cpu")
    with pytest.raises(HpcsampError, match=line):
        Trainer(config.check(table), topology, tmp_path / "run", quiet=True)
