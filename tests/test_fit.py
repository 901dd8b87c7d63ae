"""``hs.fit``: the same as the commands, from Python; any data and network; interrupted, resumed."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import launch
from torch import nn

import hpcsamp as hs
from hpcsamp.config.reading import read
from hpcsamp.data.manifest import read_manifest
from hpcsamp.errors import CheckpointError, DataError, HpcsampError, PreemptedError, UsageError
from hpcsamp.models import MLP
from hpcsamp.training.callbacks import Callback

G = np.random.default_rng(0)
X = G.normal(size=(200, 3))
LINE = X @ [1.0, 0.5, -1.0] + 0.1 * G.normal(size=200)
CLASSES = (X[:, 0] > 0).astype(np.int64) + (X[:, 1] > 0)
QUICK = {"epochs": 2, "samples": 2, "quiet": True, "method.samples_per_pass": 1}


def net(outputs: int = 1) -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, outputs))


def summary(run: Path) -> dict[str, object]:
    return json.loads((Path(run) / "summary.json").read_text())


def test_fit_is_train_by_configuration_to_the_last_bit(hpcsamp, small, digits, tmp_path):
    assert hpcsamp(1, "train", small, "-o", tmp_path / "command").code == 0
    table = read(small)
    quiet = {"config": table, "quiet": True}
    hs.fit("mlp", digits, output=tmp_path / "named", **quiet)
    hs.fit(None, digits, output=tmp_path / "whole", config=small, quiet=True)
    table = {k: v for k, v in table.items() if k != "model"}

    def make(in_shape: tuple[int, ...], outputs: int) -> nn.Module:
        return MLP(in_shape, outputs, hidden=[16])

    posterior = hs.fit(make, digits, output=tmp_path / "made", config=table, quiet=True)
    hashes = {
        summary(tmp_path / run)["parameters_sha256"]
        for run in ("command", "named", "whole", "made")
    }
    assert len(hashes) == 1
    assert posterior.restored.step == summary(tmp_path / "command")["steps"]


PROGRAM = f"""
import sys
import torch
import hpcsamp as hs
from hpcsamp.runtime import mpi
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_fit import LINE, X, net
module = net()
rank = mpi().COMM_WORLD.Get_rank()
if rank:  # every rank draws its own network, and the first has the data
    module[0].weight.data.normal_()
hs.fit(module, (X, LINE) if rank == 0 else None, output=sys.argv[1], epochs=3, samples=5,
       callbacks=[], **{{"method.samples_per_pass": 1, "training.precision": "float64",
       "parallel.samples": sys.argv[2], "data.accumulate": 3, "training.log_every": 1}})
if len(sys.argv) > 3:
    hs.fit(module if rank == 0 else torch.nn.Linear(3, 1), (X, LINE), epochs=1)
"""


def test_fit_on_two_ranks_is_fit_on_one(tmp_path):
    runs = {"whole": (1, "node"), "samples": (2, "node"), "data": (2, "none")}
    losses = {}
    for name, (ranks, axis) in runs.items():
        end = ["refused"] if name == "data" else []
        done = launch(ranks, "-c", PROGRAM, str(tmp_path / name), axis, *end)
        if end:
            assert done.code == 2
            (line,) = done.errors
            assert "ranks must pass the same network to hs.fit: its layers or shapes" in line
        else:
            assert done.code == 0, done.err
        assert "task: regression, because y contains values" in done.out
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        events = [json.loads(line) for line in lines]
        losses[name] = [e["loss"] for e in events if e["event"] == "train"]
        assert len(losses[name]) == 6
    for found in losses.values():
        assert found == pytest.approx(losses["whole"], rel=1e-10)


def test_losses_and_likelihoods_are_given_by_name(tmp_path):
    hashes = set()
    for number, given in enumerate((
        {"loss": "mean_mse"}, {"loss": {"name": "mean_mse"}}, {"config": {"loss": "mean_mse"}},
    )):  # fmt: skip
        run = hs.fit(net(), (X, LINE), output=tmp_path / str(number), **given, **QUICK)
        hashes.add(summary(tmp_path / str(number))["parameters_sha256"])
        assert run.config.loss.name == "mean_mse"
    assert len(hashes) == 1
    with pytest.raises(UsageError, match="'mean_mse'"):
        hs.fit(net(), (X, LINE), loss="mean_mze", **QUICK)


@pytest.mark.parametrize(
    "given",
    [
        {"likelihood": "poisson"},
        {"config": {"likelihood": "poisson"}},
        {"config": {"task": {"kind": "regression"}, "likelihood": {"name": "poisson"}}},
        {"config": {"task": "counts"}},
        {"config": {"task": {"kind": "counts"}}},
        {"task": "counts", "config": {"task": "regression"}},
    ],
)
def test_a_configuration_tells_of_targets_what_arguments_tell(tmp_path, given):
    counts = G.poisson(np.exp(X[:, 0])).astype(float)
    posterior = hs.fit(net(), (X, counts), output=tmp_path / "run", **given, **QUICK)
    told = read_manifest(tmp_path / "run" / "data")
    kind = "counts" if "counts" in str(given) else "regression"
    assert (told.task, told.normalize_y) == (kind, False)
    assert type(posterior.likelihood).__name__ == "Poisson"


def test_data_is_a_table_of_the_configuration_after_the_data_themselves(tmp_path):
    hs.fit(net(), (X, LINE), data={"batch": 7}, output=tmp_path / "run", **QUICK)
    assert "batch = 7" in (tmp_path / "run" / "config.toml").read_text()
    hs.fit(module=net(), data=(X, LINE), output=tmp_path / "named", **QUICK)
    with pytest.raises(UsageError, match="no data: pass"):
        hs.fit(net())


def test_a_configuration_tells_of_several_targets_and_widths(tmp_path):
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.visits, self.size = nn.Linear(3, 1), nn.Linear(3, 1)

        def forward(self, x):
            return {"visits": self.visits(x), "size": self.size(x)}

    y = {"visits": G.poisson(3, 200).astype(float), "size": LINE}
    outputs = {"visits": {"likelihood": "poisson", "weight": 0.5}}
    table = {"task": {"outputs": outputs}, "training": {"epochs": 1}}
    hs.fit(Two, (X, y), config=table, task={"size": "regression"}, output=tmp_path / "two",
           samples=2, quiet=True)  # fmt: skip
    told = read_manifest(tmp_path / "two" / "data").targets
    assert {n: t.normalize for n, t in told.items()} == {"visits": False, "size": True}
    found = hs.load(tmp_path / "two", module=Two)
    assert found.config.task.arguments["outputs"]["visits"]["weight"] == 0.5
    wide = {"likelihood": "predicted_gaussian"}
    posterior = hs.fit("mlp", (X, LINE), config=wide, **QUICK)
    assert posterior.module(0)(torch.zeros(5, 3)).shape == (5, 2)
    assert posterior.config.training.epochs == 2


class Interrupt(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def after_step(self, at) -> None:
        if at.step == self.step:
            os.kill(os.getpid(), signal.SIGINT)


def test_an_interrupted_fit_goes_on(tmp_path):
    module = net()
    before = {k: v.clone() for k, v in module.state_dict().items()}
    whole = hs.fit(module, (X, LINE), output=tmp_path / "whole", **QUICK)
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name])  # copies are trained
    run = tmp_path / "parts"
    words = rf"interrupted; 2 of 4 steps are done.*output='{re.escape(str(run))}', resume=True"
    with pytest.raises(PreemptedError, match=words):
        hs.fit(module, (X, LINE), output=run, callbacks=[Interrupt(1)], **QUICK)
    with pytest.raises(UsageError, match="already contains a run; continue it with resume=True"):
        hs.fit(module, (X, LINE), output=run, **QUICK)
    with pytest.raises(UsageError, match="data differ from those with which the run was started"):
        hs.fit(module, (X, LINE + 1), output=run, resume=True, **QUICK)
    other = nn.Sequential(nn.Linear(3, 7), nn.Tanh(), nn.Linear(7, 1))
    with pytest.raises(CheckpointError, match=r"another configuration: model.layout"):
        hs.fit(other, (X, LINE), output=run, resume=True, **QUICK)
    with torch.no_grad():
        module[0].weight.zero_()  # the checkpoint has the weights
    parts = hs.fit(module, (X, LINE), output=run, resume=True, **QUICK)
    hashes = [summary(r)["parameters_sha256"] for r in (tmp_path / "whole", run)]
    assert hashes[0] == hashes[1]
    assert parts.restored.step == whole.restored.step == 4


def test_a_network_that_was_passed_must_be_passed_again(hpcsamp, commands, tmp_path):
    run = tmp_path / "run"
    hs.fit(net(), (X, LINE), output=run, **QUICK)
    for command in (["train", run / "config.toml", "-o", run, "--resume"], ["evaluate", run]):
        done = hpcsamp(1, *command)
        assert done.code == 2
        (line,) = done.errors
        assert 'model.name = "given": the network of this run, Sequential ' in line
        assert "hs.fit(module, ..., resume=True)" in line


def test_data_of_any_form(tmp_path, capsys):
    pandas = pytest.importorskip("pandas")
    frame, train = pandas.DataFrame(X, columns=["a", "b", "c"]), slice(150)
    valid = slice(150, None)

    class Items:
        def __len__(self) -> int:
            return len(X)

        def __getitem__(self, i: int):
            return torch.from_numpy(X[i]).bfloat16(), int(CLASSES[i])

    forms = {
        "frame": ((frame, pandas.Series(CLASSES)), 3, {"train": 180, "valid": 20}),
        "tensors": ((torch.from_numpy(X), torch.from_numpy(LINE).float()), None, None),
        "pairs": (((X[train], LINE[train]), (X[valid], LINE[valid])), None,
                  {"train": 150, "valid": 50}),
        "dictionary": ({"x": X[train], "y": CLASSES[train], "x_test": X[valid],
                        "y_test": CLASSES[valid]}, 3, {"train": 135, "valid": 15, "test": 50}),
        "items": (Items(), 3, None),
    }  # fmt: skip
    for name, (data, classes, splits) in forms.items():
        quick = {**QUICK, "epochs": 1, "quiet": name != "frame"}
        hs.fit(net(classes or 1), data, output=tmp_path / name, **quick)
        made = read_manifest(tmp_path / name / "data")
        assert made.classes == classes, name
        assert made.normalize_y == (classes is None)
        assert splits is None or made.splits == splits, name
    assert "y contains 3 classes; change it with task=..." in capsys.readouterr().out


def five() -> nn.Module:
    torch.manual_seed(3)
    return nn.Linear(5, 1)


def test_what_a_table_tells_is_used_in_all_splits_and_in_predictions():
    """Names, types and index of tables, not the places of columns, decide; words are classes."""
    pandas, xarray = pytest.importorskip("pandas"), pytest.importorskip("xarray")
    frame = pandas.DataFrame(X, columns=["a", "b", "c"]).assign(d=CLASSES > 0, e=CLASSES)
    frame["e"] = frame["e"].astype("Int64")
    numbers = frame.to_numpy(float)
    plain = hs.fit(five(), ((numbers, LINE), (numbers[:50], LINE[:50])), **QUICK)
    other = frame[["e", "c", "d", "a", "b"]]
    named = hs.fit(five(), ((frame, LINE), (other[:50], LINE[:50])), **QUICK)
    table = xarray.DataArray(numbers, dims=["at", "of"], coords={"of": list("abcde")})
    labelled = hs.fit(five(), ((table, LINE), (table[:50, ::-1], LINE[:50])), **QUICK)
    want = plain.predict(numbers, samples=4)["mean"].to_numpy()
    for of, x in ((named, frame), (named, other), (labelled, table), (labelled, table[:, ::-1])):
        assert np.allclose(of.predict(x, samples=4)["mean"], want, rtol=1e-6)
        recorded = summary(of.restored.folder.path)["metrics"]
        assert recorded["rmse"] == summary(plain.restored.folder.path)["metrics"]["rmse"]
    words = np.array(["low", "mid", "high"])[CLASSES]
    spoken = hs.fit(net(3), (X, words), **QUICK).predict(X[:3])
    assert spoken["class"].values.tolist() == ["high", "low", "mid"]
    rows = pandas.Series(LINE).sample(frac=1, random_state=1)
    for x, y, message in (
        (frame, rows, r"same rows in different orders: row 0 is 0 in x and \d+ in y"),
        (frame.assign(d="word"), LINE, r"column d of x of train is not a number: 'word'"),
        (frame.rename(columns={"b": "a"}), LINE, r"several columns have the name a"),
    ):
        with pytest.raises(DataError, match=message):
            hs.fit(five(), (x, y), **QUICK)
    with pytest.raises(DataError, match=r"x of valid has the columns a, b, c, d, z"):
        hs.fit(five(), (frame, LINE), valid=(frame.rename(columns={"e": "z"}), LINE))
    with pytest.raises(DataError, match=r"x is a masked array"):
        plain.predict(np.ma.masked_greater(numbers, 1))


def test_keys_of_the_task_are_kept_beside_its_kind():
    more = {**QUICK, "task.class_weights": [1.0, 2.0, 3.0]}
    kept = hs.fit(net(3), (X, CLASSES), task="classification", **more)
    assert kept.config.task.model_dump() == {
        "kind": "classification", "class_weights": [1.0, 2.0, 3.0]
    }  # fmt: skip
    table = {"config": {"task": {"class_weights": [0, 0, 0]}}}
    short = {"task.class_weights": [1.0]}
    for wrong, message in ((short, "1 numbers, but the"), (table, "one must be above 0")):
        with pytest.raises(UsageError, match=message):
            hs.fit(net(3), (X, CLASSES), **QUICK, **wrong)


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(5, 4), nn.Linear(7, 1)

    def forward(self, word: torch.Tensor, size: torch.Tensor) -> torch.Tensor:
        return self.head(torch.cat([self.words(word), size], -1))


def test_several_inputs_are_dictionaries(tmp_path):
    x = {"word": G.integers(0, 5, 200), "size": X}
    posterior = hs.fit(Two, (x, LINE), output=tmp_path / "run", inputs={"word": "ids"}, **QUICK)
    found = posterior.predict({name: values[:4] for name, values in x.items()}, samples=8)
    assert found["mean"].shape == (4,)
    assert np.isfinite(found["mean"]).all()
    with pytest.raises(DataError, match=r"word"):
        hs.fit(Two, (x, LINE), output=tmp_path / "other", **QUICK)


def test_an_only_target_may_have_a_name(tmp_path):
    of = {
        task: LINE if task == "regression" else CLASSES for task in ("regression", "classification")
    }
    for task, y in of.items():
        network = net(1 if task == "regression" else 3)
        given = {"task": task, "normalize_y": False}
        named = hs.fit(network, (X, {"price": y}), output=tmp_path / task, **given, **QUICK)
        alone = hs.fit(network, (X, y), **given, **QUICK)
        assert torch.equal(named.run.method.mean, alone.run.method.mean)


def test_what_a_layer_cannot_take_is_told_with_the_layer():
    network = nn.Sequential(nn.Embedding(5, 3), nn.Flatten(), nn.Linear(12, 3))
    ids = np.zeros((200, 4), int)
    ids[::2] = 7
    expected = r"in 0, Embedding\(5, 3\), given int64 of shape \(\d+, 4\) from 0 to 7"
    with pytest.raises(HpcsampError, match=expected):
        hs.fit(network, (ids, CLASSES), inputs="ids", **QUICK)
    ids[::2] = 4
    posterior = hs.fit(network, (ids, CLASSES), inputs="ids", **QUICK)
    with pytest.raises(DataError, match="ids of x are from 5 to 9"):
        posterior.predict(ids[:3] + 5)


def test_members_of_an_ensemble_are_made_one_by_one(tmp_path):
    """A function makes each; copies of one module would become one network, which is refused."""
    many = {**QUICK, "method": "ensemble", "samples": 3}
    posterior = hs.fit(lambda: nn.Linear(3, 1), (X, LINE), output=tmp_path / "run", **many)
    weights = posterior.run.method.weights
    assert len({tuple(row) for row in weights.tolist()}) == 3
    with pytest.raises(UsageError, match=r"same network; give each member its own initial weights"):
        hs.fit(net(), (X, LINE), output=tmp_path / "copies", **many)


@pytest.mark.parametrize(
    ("data", "more", "kind", "message"),
    [
        (X, {}, UsageError, "data is a ndarray; it may be (x, y)"),
        ({"x": X, "targets": LINE}, {}, UsageError, "'targets'; its keys may be x, y, x_valid"),
        ((X, LINE[:7]), {}, DataError, "x of train has shape (200, 3), y has shape (7,)"),
        ((X, LINE), {"optimizer.lrr": 1}, UsageError, "optimizer.lrr"),
        ((X, LINE), {"sed": 1}, UsageError, "sed"),
        ((X, LINE), {"optimizer": 3}, UsageError, "optimizer"),
        ((X.astype(int), LINE), {}, UsageError, "Pass inputs='ids'"),
        ((X, np.arange(200)), {}, DataError, "task='classification' or task='regression'"),
        (((X, LINE), (X, LINE)), {"valid": (X, LINE)}, UsageError, "are given twice"),
        ((X, np.array(["a"] * 200, object)), {}, DataError, "at least 2 classes are needed"),
        ((X, np.array(["a", None] * 100, object)), {}, DataError, "of type NoneType, str, but"),
        ((X, np.array(["a", "b"] * 100)), {"task": "ordinal"}, DataError, "order of classes"),
        ((X, LINE), {"valid": (X, ["a"] * 200)}, DataError, "type <U1, but numbers are needed"),
        ((np.ma.masked_greater(X, 1), LINE), {}, DataError, "x of train is a masked array in "),
        ((X, np.ma.masked_greater(LINE, 1)), {}, DataError, "y of train is a masked array in "),
        ((X, LINE), {"callbacks": [print]}, UsageError, "not an instance of a subclass"),
        ((X, LINE), {"method": {"name": "mean_field", "prior": 2}}, UsageError, "method.prior"),
    ],
)
def test_what_does_not_fit_is_one_line(data, more, kind, message, tmp_path):
    with pytest.raises(kind) as error:
        hs.fit(net(), data, output=tmp_path / "run", **{**QUICK, **more})
    assert message in str(error.value)


def test_without_an_output_the_run_is_temporary_and_patience_gives_the_best_state():
    late = {"epochs": 40, "samples": 2, "quiet": True, "training.patience": 1}
    posterior = hs.fit(net(), (X, LINE), **late, **{"training.min_delta": 1e3})
    folder = posterior.restored.folder.path
    found = summary(folder)
    assert found["steps"] == 4
    assert found["ended"].startswith("patience")
    assert posterior.restored.step == found["best_step"]
