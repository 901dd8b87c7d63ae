"""Recalibration of runs: the same on any grid, used by all that predicts, refused where wrong."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import composite_sets
import h5py
import numpy as np
import pytest
import torch
from scipy import special
from test_composite import CONFIG
from test_prediction import MAKE, same

import hpcsamp as hs
from hpcsamp.calibration import quantile
from hpcsamp.calibration.adaptive import thresholds

SETS = """sets = {
    "digits": synthetic("digits", 150),
    "entsoe": synthetic("entsoe", 130),
    "era5": synthetic("era5", 130, grid=(2, 3)),
}
for name,"""
RUNS = """runs = {
    "classes": ("digits", "classification", "mean_field", "expected_nll", {}, {}),
    "series": ("entsoe", "regression", "mean_field", "predictive_nll", {},
               {"name": "predicted_gaussian"}),
    "fields": ("era5", "regression", "mean_field", "expected_nll", {},
               {"name": "gaussian", "std": 0.2}),
}
topology"""
OPTIONS = {
    "classes": ["--scaling", "vector", "--conformal", "raps", "--coverage", "0.5"],
    "series": ["--adaptive", "0.05"],
    "fields": ["--conformal", "normalised"],
}
COMMANDS = """
import json, sys
from pathlib import Path
from hpcsamp.cli import app
place, out, options = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
for name, own in options.items():
    run, file = str(place / name), str(out / name)
    common = ["--set", sys.argv[4]]
    for line in (
        ["recalibrate", run, "--coverage", "0.8", "--json", file + "-fitted.json", *own, *common],
        ["evaluate", run, "--json", file + "-metrics.json", *common],
        ["predict", run, "--out", file + ".h5", "-q", *common],
    ):
        app(line, standalone_mode=False)
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory, script):
    place = tmp_path_factory.mktemp("runs")
    start, _, rest = MAKE.partition("sets = {")
    rest = RUNS + rest.partition("}\nfor name,")[2].partition("}\ntopology")[2]
    loop = MAKE.partition("}\nfor name,")[2].partition("runs = {")[0]
    code = f"import sys; sys.argv = ['', {str(place)!r}]\n{start}{SETS}{loop}{rest}"
    done = script(1, code, timeout=120)
    assert done.code == 0, done.err
    return place


def commanded(runs, script, out, ranks, samples):
    out.mkdir()
    arguments = ["", str(runs), str(out), json.dumps(OPTIONS), f"parallel.samples={samples}"]
    done = script(ranks, f"import sys; sys.argv = {arguments!r}\n{COMMANDS}", timeout=240)
    assert done.code == 0, done.err
    return out, done


@pytest.fixture(scope="module")
def serial(runs, script, tmp_path_factory):
    return commanded(runs, script, tmp_path_factory.mktemp("out") / "serial", 1, '"world"')


@pytest.mark.parametrize(("ranks", "samples"), [(3, '"world"'), (4, "2")])
def test_any_grid_gives_the_same(runs, serial, script, tmp_path, ranks, samples):
    out, _ = commanded(runs, script, tmp_path / "out", ranks, samples)
    for name in OPTIONS:
        for what in ("fitted", "metrics"):
            pair = (json.loads((p / f"{name}-{what}.json").read_text()) for p in (serial[0], out))
            same(*pair, name)
        with h5py.File(serial[0] / f"{name}.h5") as a, h5py.File(out / f"{name}.h5") as b:
            assert set(a) == set(b)
            for key in set(a) - {"bound", "target_channel"}:
                found, truth = b[key][:], a[key][:]
                close = np.allclose(found, truth, rtol=1e-10, atol=1e-10, equal_nan=True)
                assert close, (name, key)


def test_thresholds_are_those_of_the_predictions_of_the_split(runs, serial):
    """From files of predictions of the calibration split that use no recalibration."""
    fitted = {n: json.loads((serial[0] / f"{n}-fitted.json").read_text()) for n in OPTIONS}
    for name, score in (("series", "cqr"), ("fields", "normalised")):
        plain = hs.load(runs / name, device="cpu", recalibrated=False)
        p = plain.predict(plain.config.data.path, split="valid", quantiles=[0.1, 0.9])
        y = p["target"].values
        if score == "cqr":
            low, high = (p["quantiles"].isel(quantile=i).values for i in (0, 1))
            scores = np.maximum(low - y, y - high)
        else:
            scores = np.abs(y - p["mean"].values) / p["std"].values
        of = fitted[name]["targets"]["y"]["conformal"]
        k = quantile.rank(len(y), 0.8)
        assert (of["items"], of["coverage"]) == (len(y), k / (len(y) + 1))
        np.testing.assert_allclose(of["threshold"], np.sort(scores, 0)[k - 1], rtol=1e-9, atol=1e-9)
        assert fitted[name]["dataset"]["split"] == "valid"


def test_intervals_and_metrics_are_those_of_the_thresholds(runs, serial):
    out = serial[0]
    told = json.loads((out / "fields-metrics.json").read_text())
    limit = np.asarray(
        json.loads((out / "fields-fitted.json").read_text())["targets"]["y"]["conformal"][
            "threshold"
        ]
    )
    with h5py.File(out / "fields.h5") as f:
        mean, std, y = (f[k][:] for k in ("mean", "std", "target"))
        interval = f["interval"][:]
        assert "0.8" in f["interval"].attrs["long_name"]
        assert f.attrs["recalibration_coverage"] >= 0.8
    np.testing.assert_allclose(interval[:, 0], mean - limit * std, rtol=1e-9)
    np.testing.assert_allclose(interval[:, 1], mean + limit * std, rtol=1e-9)
    inside = (interval[:, 0] <= y) & (y <= interval[:, 1])
    assert told["metrics"]["conformal_coverage"] == pytest.approx(inside.mean())
    by_row = inside.reshape(*inside.shape[:2], -1).mean((0, 2))
    np.testing.assert_allclose(told["rows"]["conformal_coverage"], by_row)
    assert "expected coverage" in told["definitions"]["conformal_coverage"]
    assert "conformal normalised with a coverage of" in serial[1].out


def test_adaptive_intervals_of_a_file_use_earlier_items_alone(runs, serial):
    of = json.loads((serial[0] / "series-fitted.json").read_text())["targets"]["y"]["conformal"]
    told = json.loads((serial[0] / "series-metrics.json").read_text())["metrics"]
    plain = hs.load(runs / "series", device="cpu", recalibrated=False)
    p = plain.predict(plain.config.data.path, quantiles=[0.1, 0.9])
    low, high = (p["quantiles"].isel(quantile=i).values for i in (0, 1))
    scores = np.maximum(low - p["target"].values, p["target"].values - high)
    past = np.asarray(of["adaptive"]["past"], float)
    limits = np.stack(
        [
            thresholds(past[:, v], scores[:, v], 0.8, rate=0.05, lag=v + 1)
            for v in range(scores.shape[1])
        ],
        axis=1,
    )
    with h5py.File(serial[0] / "series.h5") as f:
        interval = f["interval"][:]
    filled = low - limits < high + limits
    np.testing.assert_allclose(interval[:, 0][filled], (low - limits)[filled], rtol=1e-9)
    np.testing.assert_allclose(interval[:, 1][filled], (high + limits)[filled], rtol=1e-9)
    assert told["adaptive_coverage"] == pytest.approx((scores <= limits).mean())
    loaded = hs.load(runs / "series", device="cpu").predict(plain.config.data.path)
    np.testing.assert_allclose(loaded["interval"].values, interval, rtol=1e-9)
    assert loaded["quantiles"].sizes["quantile"] == 3  # those of the score are left out


def test_sets_and_scaled_probabilities_are_used_in_python(runs, serial):
    of = json.loads((serial[0] / "classes-fitted.json").read_text())["targets"]["y"]
    loaded, plain = (hs.load(runs / "classes", device="cpu", recalibrated=r) for r in (True, False))
    path = plain.config.data.path
    found, raw = loaded.predict(path), plain.predict(path)
    z = np.log(raw["probabilities"].values) * of["scaling"]["factor"] + of["scaling"]["offset"]
    p = special.softmax(z, axis=1)
    np.testing.assert_allclose(found["probabilities"], p, rtol=1e-9)
    order = np.argsort(-p, axis=1)
    cumulated = np.take_along_axis(p, order, 1).cumsum(1) + 0.01 * np.maximum(
        0, np.arange(1, 11) - 5
    )
    inside = cumulated <= of["conformal"]["threshold"] + 1e-9  # all classes add up to 1
    inside[:, 0] = True
    expected = np.empty_like(inside)
    np.put_along_axis(expected, order, inside, 1)
    assert (found["prediction_set"].values == expected).all()
    assert 1 < expected.sum(1).mean() < 10
    np.testing.assert_allclose(found["epistemic"], raw["epistemic"], atol=1e-12)
    np.testing.assert_allclose(found["total"], found["aleatoric"] + found["epistemic"], rtol=1e-9)
    assert "interval" not in raw
    assert "prediction_set" not in raw


def test_another_number_of_samples_does_not_use_it(runs, serial, capsys):
    loaded = hs.load(runs / "classes", device="cpu")
    found = loaded.predict(loaded.config.data.path, samples=4)
    assert "prediction_set" not in found
    assert "fitted with 5 samples, but these predictions have 4" in capsys.readouterr().err
    assert "4" in found.attrs["recalibration_used"]
    posterior = hs.load(runs / "classes", device="cpu")
    with torch.no_grad():
        next(iter(posterior.method.parameters())).add_(1e-3)
    posterior.recalibration = posterior._recalibration()
    posterior._recalibrate()
    assert posterior.task is posterior.run.task
    assert "other parameters" in posterior.notes[0]


def test_what_is_wrong_is_refused(runs, serial, refusals):
    classes, fields = str(runs / "classes"), str(runs / "fields")
    data = tomllib.loads((runs / "fields" / "config.toml").read_text())["data"]["path"]
    cases = {
        "has 15 items .* are for|needs at least 19": [classes, "--coverage", "0.95"],
        "--coverage 1 must be between 0 and 1": [classes, "--coverage", "1"],
        "applies to values with quantiles": [classes, "--conformal", "cqr"],
        "only class probabilities are scaled": [fields, "--scaling", "isotonic"],
        "did you mean": [fields, "--conformal", "normalized"],
        "has seen these items": [fields, "--split", "train"],
        "train: the network has seen": [fields, "--data", data, "--split", "train"],
        "shape|trained": [fields, "--data", str(runs / "entsoe"), "--split", "valid"],
        "nothing to fit": [classes, "--scaling", "none", "--conformal", "none"],
        "--adaptive 2 must be between 0 and 1": [fields, "--adaptive", "2"],
        "--raps-penalty and --raps-free are settings": [classes, "--raps-free", "3"],
        "only intervals of numeric targets are adaptive": [
            classes,
            "--adaptive",
            "0.1",
            "--coverage=0.5",
        ],
        "no split|splits": [fields, "--split", "calibration"],
    }
    before = {n: (runs / n / "recalibration.json").read_bytes() for n in ("classes", "fields")}
    for done, text in zip(
        refusals(2, *[["recalibrate", *line] for line in cases.values()]), cases, strict=True
    ):
        assert done.code in (1, 2), (text, done.out)
        assert re.search(text, done.err), done.err
        assert len(done.err.strip().splitlines()) == 1, done.err
    assert before == {n: (runs / n / "recalibration.json").read_bytes() for n in before}


def test_each_of_several_targets_is_recalibrated_from_its_known_values(tmp_path, commands):
    composite_sets.make(tmp_path / "plants")
    (tmp_path / "c.toml").write_text(CONFIG)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))
        done = commands(
            3,
            ["train", "c.toml", "-o", "run", "--set=training.steps=2"],
            ["recalibrate", "run", "--coverage", "0.6", "--json", "fitted.json"],
            ["evaluate", "run"],
            ["predict", "run", "--out", "p.h5", "-q"],
            cwd=tmp_path,
            timeout=200,
        )
        assert done.code == 0, done.err
        done = commands(1, ["report", "run"], cwd=tmp_path)
    assert done.code == 0, done.err
    fitted = json.loads((tmp_path / "fitted.json").read_text())["targets"]
    with hs.data.Dataset.open(tmp_path / "plants", "valid") as dataset:
        y = dataset.read(range(dataset.count))[1]
    known = int((y["kind"] >= 0).sum())
    assert fitted["kind"]["conformal"]["items"] == known - known // 2  # the rest is for the scaling
    fewest = int((~np.isnan(y["size"])).sum(0).min())
    assert fewest < len(y["size"])
    assert fitted["size"]["conformal"]["items"] == fewest
    run = hs.load(tmp_path / "run", device="cpu")
    found = run.predict(tmp_path / "plants")
    with h5py.File(tmp_path / "p.h5") as f:
        for name in ("kind_probabilities", "kind_prediction_set", "size_interval"):
            np.testing.assert_allclose(found[name], f[name][:], rtol=1e-10, atol=1e-10)
        interval, target = f["size_interval"][:], f["size_target"][:]
    told = json.loads((tmp_path / "run/evaluation/test.json").read_text())
    inside = ((interval[:, 0] <= target) & (target <= interval[:, 1]))[~np.isnan(target)]
    assert told["metrics"]["size/conformal_coverage"] == pytest.approx(inside.mean())
    assert 0 < told["metrics"]["kind/conformal_coverage"] <= 1
    assert "the expected coverage is" in (tmp_path / "run/report/index.html").read_text()
