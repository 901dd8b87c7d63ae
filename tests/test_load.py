"""A finished run in Python: raw inputs in, the predictions of ``hpcsamp predict`` out."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import h5py
import numpy as np
import onnx.reference
import pandas as pd
import pytest
import torch
import xarray as xr
from conftest import environment
from patience import patient
from torch import nn

import hpcsamp as hs
from hpcsamp.cli import app
from hpcsamp.data import Dataset
from hpcsamp.errors import CheckpointError, DataError, UsageError

CLASSES = """
seed = 3
[data]
path = "{data}"
batch = 64
[model]
name = "mlp"
hidden = [16]
[method]
name = "{method}"
samples = 4
[loss]
name = "expected_nll"
[optimizer]
lr = 5e-3
[training]
steps = 20
[evaluation]
samples = {samples}
batch = 90
"""
VALUES = 'task = "regression"' + CLASSES.replace("20", '60\nepochs = 30\nprecision = "float64"')
NAMES = ["a", "b", "c"]


def table(folder):
    """A csv file, as a dataset whose columns have names."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 3))
    rows = np.c_[x, x @ [1, 2, 3] + rng.normal(size=200) / 10]
    path = folder / "table.csv"
    lines = ["a,b,c,u", *(",".join(f"{v:.5f}" for v in row) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def runs(tmp_path_factory, commands, digits):
    """Runs in a folder, with predictions of their test splits."""
    folder = tmp_path_factory.mktemp("runs")
    own = folder / "digits"
    shutil.copytree(digits, own)
    values = folder / "table"
    lines = [["ingest", "csv", table(folder), "--target", "u", "--out", values]]
    for name, text, data, samples in (
        ("mean_field", CLASSES, own, 6),
        ("ensemble", CLASSES, own, 4),
        ("mc_dropout", CLASSES, own, 6),
        ("last_layer", VALUES, values, 6),
        ("swag", VALUES, values, 6),
        ("fitted", VALUES.replace("expected_nll", "mean_mse"), values, 6),
    ):
        config = folder / f"{name}.toml"
        method = "mean_field" if name == "fitted" else name
        config.write_text(text.format(data=data, method=method, samples=samples))
        run = folder / name
        lines += [
            ["train", config, "--output", run],
            ["predict", run, "--out", folder / f"{name}.h5", "--keep-samples"],
        ]
    done = commands(1, *lines, timeout=120)
    assert done.code == 0, done.err
    return folder


def items(data):
    with Dataset.open(data, "test") as found:
        return found.read(range(found.count))[0]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("mean_field", "digits"),
        ("ensemble", "digits"),
        ("mc_dropout", "digits"),
        ("last_layer", "table"),
        ("swag", "table"),
    ],
)
def test_predictions_are_those_of_the_command(runs, name, data):
    posterior = hs.load(runs / name)
    x = items(runs / data)
    found = posterior.predict(x, keep_samples=True)
    close = {"rtol": 0, "atol": 1e-6} if data == "digits" else {"rtol": 1e-10, "atol": 1e-12}
    with h5py.File(runs / f"{name}.h5") as f:
        assert set(found.data_vars) == {*f} - {"target", "error", "index", *found.dims}
        for key, values in found.data_vars.items():
            np.testing.assert_allclose(values, f[key][:], **close, err_msg=key)
            assert values.attrs.get("units", "") == f[key].attrs.get("units", "")
        for key in ("run", "step", "samples", "method", "dataset_uid"):
            assert found.attrs[key] == f.attrs[key]
    # whatever the batch, the container and the order
    for other in (torch.from_numpy(x), x.astype(float), xr.DataArray(x)):
        again = posterior.predict(other, keep_samples=True, batch=17)
        for key, values in found.data_vars.items():
            np.testing.assert_allclose(values, again[key], **close, err_msg=key)
    one = posterior.predict(x[7])
    assert "item" not in one.dims
    np.testing.assert_allclose(one.total, found.total[7], **close)
    written = posterior.predict(runs / data, keep_samples=True)
    written = written.drop_vars(["target", "error"], errors="ignore")
    xr.testing.assert_allclose(written, found, **close)
    assert name in repr(posterior)


def test_weights_are_drawn_once_for_all_batches(runs, monkeypatch):
    posterior = hs.load(runs / "mean_field")
    x = items(runs / "digits")
    expected = posterior.predict(x)  # how samples are evaluated is measured here
    drawn, kind = [], type(posterior.method)
    noise = kind.noise
    monkeypatch.setattr(
        kind, "noise", lambda m, step, s, *out: drawn.append(s) or noise(m, step, s, *out)
    )
    found = posterior.predict(x, batch=17)
    assert [s for samples in drawn for s in samples] == list(range(6))
    for key, values in found.data_vars.items():
        np.testing.assert_allclose(values, expected[key], rtol=0, atol=1e-6)


def test_tables_are_taken_by_the_names_of_their_columns(runs):
    posterior = hs.load(runs / "last_layer")
    x = items(runs / "table")
    expected = posterior.predict(x)
    frame = pd.DataFrame(x, columns=NAMES, index=[f"row {i}" for i in range(len(x))])
    shuffled = frame[["c", "a", "b"]]
    labelled = xr.DataArray(
        x.T[::-1], dims=("feature", "time"),
        coords={"feature": NAMES[::-1], "time": np.arange(len(x)) * 10},
    )  # fmt: skip
    packed = np.zeros(len(x), [("b", "f8"), ("c", "f8"), ("a", "f8")])
    for column in NAMES:
        packed[column] = frame[column]
    for given in (shuffled, labelled, dict(shuffled), packed, shuffled.to_xarray()):
        found = posterior.predict(given)
        for key in expected:
            np.testing.assert_allclose(found[key], expected[key], rtol=1e-12)
    assert posterior.predict(shuffled).item.values.tolist() == frame.index.tolist()
    assert posterior.predict(labelled).item.values[-1] == 10 * (len(x) - 1)
    row = posterior.predict(shuffled.iloc[3])
    np.testing.assert_allclose(row["mean"], expected["mean"][3], rtol=1e-12)
    two = posterior.predict(frame, quantiles=[0.9, 0.1])
    assert two["quantile"].values.tolist() == [0.1, 0.9]


def raw_table():
    rng = np.random.default_rng(1)
    data = pd.DataFrame(
        {
            "when": pd.date_range("2020-01-01", periods=60, freq="7h"),
            "colour": rng.choice(["red", "green", "blue"], 60),
            "grade": rng.integers(1, 6, 60),
            "speed": rng.normal(5, 2, 60).round(3),
            "load": rng.normal(50, 9, 60).round(3),
        }
    )
    data.loc[[3, 50], "speed"] = np.nan
    return data


@pytest.mark.parametrize("encoding", ["--onehot", "--ids"])
def test_tables_are_encoded_as_the_training_set_was(tmp_path, encoding):
    """Dates, categories and missing numbers as in the csv file; the numbers of the dataset's."""
    data, made = raw_table(), tmp_path / "set"
    data.to_csv(tmp_path / "raw.csv", index=False)
    app(
        ["ingest", "csv", str(tmp_path / "raw.csv"), "--target", "load", encoding, "colour",
         "--onehot", "grade", "--date", "when=cyclical+seconds", "--missing", "mean",
         "--chronological", "rows", "--out", str(made)],
        standalone_mode=False,
    )  # fmt: skip
    quick = {"epochs": 1, "samples": 2, "quiet": True, "training.precision": "float64"}
    posterior = hs.fit("mlp" if encoding == "--onehot" else WithIds, made, **quick)
    raw = data.drop(columns="load")
    rows = slice(42 + 6, 60)  # of test, which are the last
    expected = posterior.predict(made, split="test")["mean"].to_numpy()
    assert len(expected) == 12
    late, zone = raw[rows], "America/New_York"
    for given in (
        late,
        late[late.columns[::-1]],
        dict(late),
        late.astype({"when": str, "grade": float, "colour": "category"}),
        late.assign(when=late.when.dt.tz_localize("UTC").dt.tz_convert(zone)),
        late.astype({"grade": str, "colour": "string"}),
    ):
        found = posterior.predict(given)
        np.testing.assert_allclose(found["mean"], expected, rtol=1e-12)
    assert posterior.predict(late).item.values.tolist() == list(range(48, 60))
    for one in (late.iloc[4], dict(late.iloc[4])):
        found = posterior.predict(one)["mean"]
        assert found.shape == ()
        np.testing.assert_allclose(found, expected[4], rtol=1e-12)
    for wrong, message in (
        (late.assign(colour="pink"), "'pink' is not one of the categories blue"),
        (late.assign(when=pd.NaT), "column 'when': a time is missing"),
        (late.assign(when="soon"), "column when of x: 'soon' is not an ISO 8601 time"),
        (late.assign(colour=3), "is not one of the categories|lacks"),
        (late.drop(columns="speed"), "x lacks speed; the columns of the run are when, colour,"),
        (data, "x has load, which the run was not trained on"),
        (late[:0], "x has no items"),
    ):
        with pytest.raises(DataError, match=message):
            posterior.predict(wrong)


class WithIds(nn.Module):
    def __init__(self, in_shape=None, outputs=1):
        super().__init__()
        self.words, self.head = nn.Embedding(3, 2), nn.Linear(15, outputs)

    def forward(self, numbers, ids):
        return self.head(torch.cat([numbers, self.words(ids[:, 0])], -1))


def test_ids_beyond_the_table_of_a_network_and_modules_that_are_not_used(runs):
    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.head = nn.Embedding(5, 2), nn.Linear(2, 1)

        def forward(self, x):
            return self.head(self.words(x).mean(1))

    x = np.arange(40).reshape(20, 2) % 5
    quick = {"epochs": 1, "samples": 2, "quiet": True}
    posterior = hs.fit(Words, (x, np.arange(20.0)), inputs="ids", **quick)
    for change, told in ((5, "ids of x are from 0 to 5"), (-1, "ids of x are from -1 to 4")):
        with pytest.raises(DataError, match=f"the network does not accept these items.*{told}"):
            posterior.predict(np.where(x == 4, change, x) if change > 0 else np.r_[x, [[-1, 0]]])
    with pytest.raises(UsageError, match=r'model.name = "mlp".*leave module= out'):
        hs.load(runs / "last_layer", module=nn.Linear(3, 1))


WRONG = [
    ("table", lambda x: x[:, :2], r"x has shape \(40, 2\), but the run takes \(items, 3\)"),
    ("table", lambda x: x[0, 0], r"x has shape \(1,|x has shape \(\)"),
    ("table", lambda x: x[:0], "x has no items"),
    ("table", lambda x: np.where(x == x[5, 1], np.nan, x), r"item 5 has nan at \(1,\)"),
    ("table", lambda x: x.astype(str), "the run takes numbers"),
    ("table", lambda x: [[1.0, 2.0, 3.0], [1.0]], "not an array of numbers"),
    ("table", lambda x: pd.DataFrame(x, columns=["a", "b", "d"]), "x lacks c and has d, which"),
    ("table", lambda x: pd.DataFrame(x, columns=["a", "b", "b"]), "columns have the name b"),
    (
        "table",
        lambda x: (
            pd.DataFrame(x, columns=NAMES).astype({"a": object}).replace({"a": {x[0, 0]: "?"}})
        ),
        "column a of x is not a number: '[?]'",
    ),
    (
        "table",
        lambda x: xr.DataArray(x, dims=("n", "feature"), coords={"feature": ["a", "b", "z"]}),
        "feature 'z' is not in the run's training set",
    ),
    ("table", lambda x: xr.DataArray(x, dims=("n", "column")), "of the run has the dimensions"),
    ("digits", lambda x: x.transpose(0, 2, 3, 1), r"\(359, 8, 8, 1\).*\(items, 1, 8, 8\)"),
    ("digits", lambda x: x / 16.0, "trained on uint8: whole numbers from 0 to 255"),
    ("digits", lambda x: x.astype(int) - 1, "x holds -1, but the run was trained on uint8"),
    ("digits", lambda x: pd.DataFrame(x.reshape(len(x), -1)), "has no column names"),
    ("digits", lambda x: {"y": x}, "has no column names"),
]


@pytest.mark.parametrize(("data", "change", "message"), WRONG)
def test_other_inputs_than_the_runs_are_refused(runs, data, change, message):
    posterior = hs.load(runs / ("last_layer" if data == "table" else "mean_field"))
    with pytest.raises(DataError, match=message):
        posterior.predict(change(items(runs / data)))


def test_other_requests_are_refused(runs, tmp_path):
    with pytest.raises(UsageError, match="its 4 members: set it to 4"):
        hs.load(runs / "ensemble").predict(np.zeros((1, 1, 8, 8), np.uint8), samples=8)
    posterior = hs.load(runs / "last_layer")
    x = items(runs / "table")
    with pytest.raises(UsageError, match="quantiles at 5"):
        posterior.predict(x, quantiles=[5])
    with pytest.raises(UsageError, match="batch = 0"):
        posterior.predict(x, batch=0)
    with pytest.raises(UsageError, match="there is no run folder"):
        hs.load(tmp_path / "none")
    with pytest.raises(CheckpointError, match="there is no checkpoint none"):
        hs.load(runs / "last_layer", "none.pt")
    with pytest.raises(DataError, match=r"x of an item has shape \(1, 8, 8\)"):
        posterior.predict(runs / "digits")


ALONE = """
import sys
sys.modules["mpi4py"] = sys.modules["mpi4py.MPI"] = None
import numpy as np
import onnx.reference
import hpcsamp as hs

posterior = hs.load(sys.argv[1])
found = posterior.predict(np.load(sys.argv[2]), samples=6)
total = repr(float(found.total.sum()))
print(total, "matplotlib" in sys.modules, sys.excepthook is sys.__excepthook__)
"""


def test_neither_mpi_nor_the_dataset_is_needed(runs, tmp_path):
    """The folder may be moved, and so may what else the run was."""
    x = items(runs / "digits")
    np.save(tmp_path / "x.npy", x)
    expected = hs.load(runs / "mean_field").predict(x).total.sum()
    shutil.copytree(runs / "mean_field", tmp_path / "moved")
    hidden = runs / "digits.away"
    (runs / "digits").rename(hidden)
    try:
        done = subprocess.run(
            [sys.executable, "-c", ALONE, str(tmp_path / "moved"), str(tmp_path / "x.npy")],
            capture_output=True, text=True, timeout=patient(60), env=environment(),
        )  # fmt: skip
    finally:
        hidden.rename(runs / "digits")
    assert done.returncode == 0, done.stderr
    total, *others = done.stdout.split()
    assert float(total) == pytest.approx(float(expected), rel=1e-6)
    assert others == ["False", "True"]
    # a run from before this was kept finds its dataset
    (tmp_path / "moved" / "data.json").unlink()
    assert hs.load(tmp_path / "moved").predict(x).total.sum() == pytest.approx(float(expected))


def test_noise_that_is_estimated_after_training_is_kept_with_the_run(runs, tmp_path):
    x = items(runs / "table")
    shutil.copytree(runs / "fitted", tmp_path / "run")
    kept = tmp_path / "run" / "noise.json"
    before = json.loads(kept.read_text())
    assert before.keys() >= {"60"}  # the last step
    hidden = runs / "table.away"
    (runs / "table").rename(hidden)
    try:
        posterior = hs.load(tmp_path / "run")
        width = posterior.noise["std"]
        assert before["60"]["y"]["std"] == width
        std = posterior.predict(x).std_aleatoric
        more = hs.load(tmp_path / "run", samples=9)  # whatever the number of samples
        assert more.noise["std"] == posterior.with_samples(3).noise["std"] == width
        kept.unlink()
        with pytest.raises(DataError, match="table"):
            hs.load(tmp_path / "run")
    finally:
        hidden.rename(runs / "table")
    with h5py.File(runs / "fitted.h5") as f:
        np.testing.assert_allclose(std, f["std_aleatoric"][:], rtol=1e-12)
    # a run from before it was kept: estimated with the samples of the run, and kept
    assert hs.load(tmp_path / "run", samples=9).noise["std"] == pytest.approx(width, rel=1e-10)
    assert json.loads(kept.read_text())["60"]["y"]["std"] == pytest.approx(width, rel=1e-10)


@pytest.mark.parametrize("name", ["mean_field", "ensemble", "mc_dropout", "last_layer", "swag"])
def test_single_samples(runs, name):
    """A sample's network predicts what the posterior keeps of that sample."""
    posterior = hs.load(runs / name)
    x = items(posterior.config.data.path)[:30]
    kept = posterior.predict(x, keep_samples=True).samples
    mean, std = (np.asarray(v) for v in ms(posterior))
    raw = (x - mean) / std
    draws = posterior.sample(4)
    for s, network in enumerate(posterior.modules(4)):
        assert not network.training
        outputs = network(torch.as_tensor(raw, dtype=posterior.run.dtype))
        means = outputs.softmax(-1) if posterior.trained.manifest.classes else outputs[..., 0]
        np.testing.assert_allclose(means.detach(), kept[:, s], rtol=1e-4, atol=1e-6)
        own = dict(network.named_parameters())
        for key, value in draws.items():
            inner = next(n for n in own if n.endswith(key))
            assert torch.equal(own[inner], value[s]), key
    assert all(value.shape[0] == 4 for value in draws.values())
    differ = {key for key, value in draws.items() if not torch.equal(value[0], value[1])}
    assert bool(differ) == (name != "mc_dropout")
    with torch.no_grad():  # nothing is shared
        for p in network.parameters():
            p.zero_()
    np.testing.assert_allclose(posterior.predict(x, keep_samples=True).samples, kept, atol=1e-6)


def ms(posterior):
    stats = posterior.trained.manifest.stats["x"]
    shape = (-1, *[1] * (len(posterior.run.shapes.x) - 1))
    std = np.asarray(stats.std)
    return np.reshape(stats.mean, shape), np.where(std > 0, std, 1).reshape(shape)


@pytest.mark.parametrize("name", ["mean_field", "ensemble", "last_layer", "mc_dropout"])
def test_exported_modules_take_raw_inputs(runs, tmp_path, name):
    posterior = hs.load(runs / name)
    x = items(posterior.config.data.path)[:11]
    expected = posterior.predict(x, samples=4)
    close = {"rtol": 0, "atol": 2e-6} if x.dtype == np.uint8 else {"rtol": 1e-9, "atol": 1e-9}
    module = posterior.to_torch(4)
    program = torch.export.export(
        module, (torch.from_numpy(x),), dynamic_shapes=(({0: torch.export.Dim("items")},),)
    )
    path = posterior.to_onnx(tmp_path / "posterior.onnx", 4)
    session = onnx.reference.ReferenceEvaluator(str(path))
    for number in (11, 3):
        some = x[:number]
        answers = [module(torch.from_numpy(some)), program.module()(torch.from_numpy(some))]
        answers.append(dict(zip(session.output_names, session.run(None, {"x": some}), strict=True)))
        for answer in answers:
            assert answer.keys() == {*expected.data_vars} - {"quantiles"}
            for key, value in answer.items():
                wanted = expected[key][:number]
                np.testing.assert_allclose(np.asarray(value), wanted, **close, err_msg=key)


@pytest.mark.parametrize("name", ["mean_field", "last_layer"])
def test_inference_data(runs, name):
    posterior = hs.load(runs / name)
    tree = posterior.to_arviz(400, split="test")
    draws = posterior.sample(400)
    assert set(tree["posterior"].data_vars) == set(draws)
    for key, value in draws.items():
        assert np.array_equal(tree["posterior"][key][0], value)
    observed = tree["observed_data"]["y"].values
    with Dataset.open(posterior.config.data.path, "test") as found:
        np.testing.assert_allclose(observed, found.read(range(found.count))[1], rtol=1e-6)
    predictive = tree["posterior_predictive"]["y"].values[0]
    found = posterior.predict(items(posterior.config.data.path), samples=400)
    if name == "mean_field":
        shares = np.stack([(predictive == c).mean(0) for c in range(10)], -1)
        assert np.abs(shares - found.probabilities).max() < 5 * 0.5 / 20
    else:
        off = (predictive.mean(0) - found["mean"]) / (found["std"] / 20)
        assert np.abs(off).max() < 5
        assert np.abs(predictive.std(0) / found["std"] - 1).max() < 0.2
    assert tree["log_likelihood"]["y"].shape == (1, 400, len(observed))
    assert tree["posterior"].attrs["samples"] == 400


def test_loading_is_measured(runs, tmp_path, hpcsamp):
    """Numbers of a busy machine are no test; what is measured is there."""
    report = tmp_path / "load.json"
    done = hpcsamp(
        1, "bench", "load", runs / "last_layer", "--items=20", "--samples=6", "--rounds=1",
        "--json", report, timeout=120,
    )  # fmt: skip
    assert done.code == 0, done.err
    found = json.loads(report.read_text())
    assert all(len(found[name]) == 1 for name in ("predict", "first_answer", "import_torch"))
    assert all(value > 0 for values in found.values() for value in values)
