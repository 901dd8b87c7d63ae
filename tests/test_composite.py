"""Several targets in whole runs: any grid, resumed, predicted and reported."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import composite_sets
import h5py
import numpy as np
import pytest
import torch

import hpcsamp as hs
from hpcsamp import config
from hpcsamp.data import Dataset
from hpcsamp.errors import DataError, UsageError
from hpcsamp.grid import init
from hpcsamp.run import checkpoint
from hpcsamp.training.loop import Trainer

CONFIG = """
seed = 3
[data]
path = "plants"
batch = 12
[task.outputs.kind]
class_weights = "balanced"
[task.outputs.size]
weight = 0.5
[model]
name = "composite_sets:TwoHeads"
[method]
samples = 5
samples_per_pass = 2
prior_std = 1.0
initial_std = 0.3
[loss]
name = "predictive_nll"
[optimizer]
name = "SGD"
lr = 0.05
[training]
epochs = 2
precision = "float64"
log_every = 1
checkpoint_every = 3
best = "kind/accuracy"
[evaluation]
samples = 6
batch = 8
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory, commands):
    """A run on one rank; one on 2 x 2; one that stops on one rank and goes on there."""
    place = tmp_path_factory.mktemp("composite")
    composite_sets.make(place / "plants")
    (place / "c.toml").write_text(CONFIG)
    on_four = "--set=parallel.samples=2"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))
        for ranks, lines in (
            (1, [["train", "c.toml", "-o", "one"], ["evaluate", "one"],
                 ["predict", "one", "--out", "p1.h5", "--keep-samples"], ["report", "one"],
                 ["train", "c.toml", "-o", "part", "--set=training.steps=4"]]),
            (4, [["train", "c.toml", "-o", "four", on_four], ["evaluate", "four", on_four],
                 ["train", "c.toml", "-o", "part", "--resume", on_four],
                 ["predict", "one", "--out", "p4.h5", "--keep-samples", on_four]]),
        ):  # fmt: skip
            done = commands(ranks, *lines, cwd=place, timeout=200)
            assert done.code == 0, done.err
    return place


def parameters(run):
    method = checkpoint.read(checkpoint.latest(run / "checkpoints"))["method"]
    return torch.cat([v.flatten() for _, v in sorted(method.items())])


def events(run, kind="train"):
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line["event"] == kind]


def test_a_run_is_the_same_on_any_grid_and_when_it_goes_on(place):
    one, four = (events(place / name) for name in ("one", "four"))
    assert len(one) > 4
    for a, b in zip(one, four, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-10)
    truth = parameters(place / "one")
    for name in ("four", "part"):
        assert (parameters(place / name) - truth).norm() / truth.norm() < 1e-10
    found, told = (
        json.loads((place / name / "evaluation/test.json").read_text())["metrics"]
        for name in ("four", "one")
    )
    assert found == pytest.approx(told, rel=1e-9, abs=1e-12)
    for a, b in zip(*(events(place / name, "valid") for name in ("one", "four")), strict=True):
        for metric in ("nll", "kind/accuracy", "size/rmse"):
            assert a[metric] == pytest.approx(b[metric], rel=1e-9)


def test_metrics_of_each_target_are_those_of_its_known_values(place):
    told = json.loads((place / "one/evaluation/test.json").read_text())
    metrics = told["metrics"]
    with Dataset.open(place / "plants", "test") as dataset:
        y = dataset.read(range(dataset.count))[1]
        weight = dataset.read_all("weight")
    kind, size = y["kind"], y["size"]
    assert (kind < 0).any()
    assert np.isnan(size).any()
    with h5py.File(place / "one/evaluation/test.h5") as f:
        held = {name: f[name][()] for name in f}
        assert [d[0].name for d in f["kind_probabilities"].dims] == ["/index", "/kind_class"]
    p, w = held["kind_probabilities"], weight * (kind >= 0)
    assert metrics["kind/items"] == (kind >= 0).sum()
    assert metrics["kind/accuracy"] == pytest.approx((w * (p.argmax(1) == kind)).sum() / w.sum())
    nll = -np.log(p[np.arange(len(p)), kind.clip(0)])
    assert metrics["kind/nll"] == pytest.approx((w * nll).sum() / w.sum(), rel=1e-9)
    w = weight[:, None] * ~np.isnan(size)
    square = np.nan_to_num(held["size_mean"] - size) ** 2
    assert metrics["size/rmse"] == pytest.approx(np.sqrt((w * square).sum() / w.sum()), rel=1e-9)
    both = metrics["kind/nll"] + 0.5 * metrics["size/nll"]
    assert metrics["nll"] == pytest.approx(both, rel=1e-12)
    assert metrics["items"] == len(kind)
    assert told["units"]["size/rmse"] == "cm"
    assert told["rows"]["size/labels"] == ["height", "width"]


def test_predictions_by_command_and_from_python_are_alike(place, monkeypatch):
    monkeypatch.chdir(place)
    posterior = hs.load("one")
    with Dataset.open("plants", "test") as dataset:
        x = dataset.read(range(dataset.count))[0]
    found = posterior.predict(x, keep_samples=True)
    assert found["kind_class"].values.tolist() == ["a", "b", "c"]
    assert found["size_mean"].dims == ("item", "size_row_of_size")
    for file in ("p1.h5", "p4.h5"):
        with h5py.File(file) as f:
            assert set(found) < set(f)
            for name in found:
                assert np.allclose(found[name], f[name][()], rtol=1e-9, atol=1e-12), name
    one = posterior.predict({name: v[3] for name, v in x.items()})
    assert np.allclose(one["size_mean"], found["size_mean"][3], rtol=1e-12)
    exported = posterior.to_torch(6)
    made = exported(*(torch.as_tensor(x[name]) for name in exported.inputs))
    assert np.allclose(made["kind_probabilities"], found["kind_probabilities"], rtol=1e-9)


def test_each_target_has_its_pictures(place):
    drawn = {file.stem for file in (place / "one/report").glob("*.png")}
    assert {"kind-confusion", "kind-reliability", "size-coverage", "size-rows"} <= drawn
    page = (place / "one/report/index.html").read_text()
    assert "size/rmse" in page


def trainer(place, tmp_path, **changes):
    table = tomllib.loads((place / "c.toml").read_text())
    table["data"]["path"] = str(place / "plants")
    for key, value in changes.items():
        part, name = key.split("__")
        table.setdefault(part, {})[name] = value
    return Trainer(config.check(table), init("none", device="cpu"), tmp_path / "run", quiet=True)


def test_one_head_is_split_in_the_order_of_the_targets(place, tmp_path):
    with trainer(place, tmp_path, model__name="composite_sets:OneHead", training__steps=3) as made:
        made.run()
    losses = [line["loss"] for line in events(tmp_path / "run")]
    truth = [line["loss"] for line in events(place / "one")][:3]
    assert losses == pytest.approx(truth, rel=1e-12)


def test_what_the_set_tells_need_not_be_said(place, tmp_path):
    changes = {"task__outputs": {}, "training__best": "size/rmse", "training__steps": 1}
    with trainer(place, tmp_path, **changes) as made:
        outputs = made.config.task.arguments["outputs"]
        assert {name: of["kind"] for name, of in outputs.items()} == {
            "kind": "classification", "size": "regression"
        }  # fmt: skip
        weights = made.assembled.data_loss.weights_of
        assert weights == {"kind": 1.0, "size": 1.0}


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"model__name": "composite_sets:WrongHead"}, "kind has 4 values per item.*needs 3"),
        ({"task__outputs": {"sze": {}}}, "the targets kind, size; did you mean 'size'"),
        (
            {"task__outputs": {"kind": "regression"}},
            "needs numbers, but the targets are labels of 3",
        ),
        (
            {"task__outputs": {"size": {"weight": -1}}},
            "size.weight = -1 must be a finite number of at least 0",
        ),
        ({"task__outputs": {"kind": {"class_weights": [1.0]}}}, "kind.class_weights has 1 numbers"),
        ({"task__outputs": {"kind": {"std": 1}}}, "unknown key 'task.outputs.kind.std'"),
        ({"task__kind": "regression"}, "unknown key|takes one target, but the set has kind"),
        ({"likelihood__name": "gaussian"}, r"each with its own likelihood.*task.outputs"),
        ({"training__best": "kind/rmse"}, "choose from nll, kind/nll"),
        ({"loss__name": "crps"}, "a loss of numeric targets, but .* of task = 'classification'"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(place, tmp_path, changes, line):
    with pytest.raises(UsageError, match=line) as caught:
        trainer(place, tmp_path, **changes)
    assert "\n" not in str(caught.value)


def test_each_target_may_have_a_loss_and_a_likelihood_of_its_own(place, tmp_path):
    outputs = {"size": {"loss": "crps"}, "kind": {"likelihood": {"label_noise": 0.1}}}
    with trainer(place, tmp_path, task__outputs=outputs, loss__name="expected_nll") as made:
        each = made.assembled.data_loss.losses
        assert {name: type(of).__name__ for name, of in each.items()} == {
            "kind": "ExpectedNLL", "size": "CRPS"
        }  # fmt: skip
        made.run()
    told = made.config.task.arguments["outputs"]
    assert told["kind"]["likelihood"] == {"name": "categorical", "label_noise": 0.1}
    posterior = hs.load(tmp_path / "run")
    assert "size_mean" in posterior.predict(place / "plants", samples=3)


class Branches(torch.nn.Module):
    """Labels that may come together, counts and values, in the order of the targets."""

    def __init__(self):
        super().__init__()
        self.body, self.head = torch.nn.Linear(4, 8), torch.nn.Linear(8, 3 + 1 + 2)

    def forward(self, x):
        return self.head(torch.tanh(self.body(x))).split([3, 1, 2], 1)


def test_fit_takes_several_targets_and_tells_what_they_are(capsys):
    g = np.random.default_rng(0)
    x = g.normal(size=(40, 4)).astype("f4")
    y = {
        "tags": (x[:, :3] > 0).astype("i8"),
        "visits": g.poisson(3, 40),
        "size": g.normal(100, 20, (40, 2)),
    }
    options = {"epochs": 2, "samples": 2, "valid": 0.2, "seed": 1}
    posterior = hs.fit(Branches, (x, y), task={"visits": "counts"}, **options)
    assert "task: tags multilabel, visits counts, size regression" in capsys.readouterr().out
    found = posterior.predict(x[:5], samples=4)
    assert found["tags_probabilities"].shape == (5, 3)
    assert (found["visits_mean"] > 0).all()
    assert abs(float(found["size_mean"].mean()) - 100) < 40
    with pytest.raises(DataError, match="'vists'; it may be tags, visits, size"):
        hs.fit(Branches, (x, y), task={"vists": "counts"}, **options)


def test_fit_takes_columns_of_zeros_and_ones_for_labels(capsys):
    x = np.random.default_rng(0).normal(size=(40, 4)).astype("f4")
    posterior = hs.fit(torch.nn.Linear(4, 3), (x, (x[:, :3] > 0).astype("f4")), epochs=1, samples=2)
    assert "task: multilabel" in capsys.readouterr().out
    assert posterior.predict(x[:2], samples=2)["probabilities"].shape == (2, 3)
