"""The paper's three runs: their configurations, their data, and small ones from end to end."""

from __future__ import annotations

import datetime
import json
import math
import tomllib
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from hpcsamp import config as configuration
from hpcsamp.data import Dataset
from hpcsamp.errors import DataError, UsageError
from hpcsamp.ingest import build
from hpcsamp.ingest.synthetic import synthetic
from hpcsamp.run.prepare import latitudes, prepare, source_of
from hpcsamp.runtime import mpi

USE_CASES = {"vit-cifar10": "cifar10", "mlp-entsoe": "entsoe", "swin-era5": "era5"}


def presets(name):
    text = (resources.files("hpcsamp") / "configs" / f"{name}.toml").read_text()
    return list(tomllib.loads(text).get("preset", {}))


CONFIGS = [
    (name, preset) for name in configuration.named_configs() for preset in (None, *presets(name))
]


@pytest.mark.parametrize(("name", "preset"), CONFIGS)
def test_every_preset_is_valid_and_gone_afterwards(name, preset):
    run = configuration.load(name, preset=preset)
    assert "preset" not in run.model_dump()
    assert "preset" not in tomllib.loads(configuration.to_toml(run))


@pytest.mark.parametrize("name", USE_CASES)
def test_every_use_case_has_a_small_preset_and_synthetic_data(name):
    assert "small" in presets(name)
    whole, small = (configuration.load(name, preset=p) for p in (None, "small"))
    assert whole.data.synthetic.like == small.data.synthetic.like == USE_CASES[name]
    assert small.data.synthetic.items < whole.data.synthetic.items * 10
    assert whole.method.name == small.method.name


def test_the_configurations_are_the_papers():
    vit = configuration.load("vit-cifar10")
    assert vit.model.arguments == {
        "patch": 4,
        "width": 192,
        "heads": 3,
        "layers": 6,
        "hidden": 768,
    }
    assert (vit.augment.crop, vit.augment.flip, vit.augment.share) == (4, True, "sample")
    assert vit.method.name == "mean_field"
    assert vit.method.arguments["scale_std"] is True
    mlp = configuration.load("mlp-entsoe")
    assert mlp.model.arguments == {"hidden": [128, 128]}
    assert (mlp.method.name, mlp.loss.name, mlp.loss.exact) == ("mc_dropout", "mean_mse", True)
    swin = configuration.load("swin-era5")
    assert swin.model.arguments["width"] == 540
    assert swin.model.arguments["heads"] == [12, 24]
    assert swin.model.arguments["blocks"] == [6, 4, 6]
    assert swin.augment.shift
    assert swin.likelihood.name == "gaussian"
    assert source_of(swin.data.synthetic).arrays["x"].shape == [76, 121, 240]
    assert source_of(swin.data.synthetic).arrays["y"].shape == [69, 121, 240]


PRESETS = """
[data]
path = "data/set"
batch = 64
[model]
name = "mlp"
hidden = [10, 10]
[preset.small]
data = { batch = 8 }
model = { hidden = [3] }
[preset.odd]
optimizer = { lrr = 1 }
"""


@pytest.fixture
def own(tmp_path):
    (tmp_path / "own.toml").write_text(PRESETS)
    return tmp_path / "own.toml"


def test_a_preset_replaces_keys_and_settings_win(own):
    run = configuration.load(own, preset="small")
    assert (run.data.batch, run.data.path) == (8, "data/set")
    assert run.model.arguments == {"hidden": [3]}
    assert configuration.load(own).data.batch == 64
    run = configuration.load(own, ["data.batch=5"], preset="small")
    assert (run.data.batch, run.model.arguments) == (5, {"hidden": [3]})


def test_presets_that_are_none(own):
    with pytest.raises(
        UsageError, match=r"--preset smal: the presets are small, odd; did you mean 'sm"
    ):
        configuration.load(own, preset="smal")
    with pytest.raises(UsageError, match=r"--preset small: there are no presets"):
        configuration.load("vit-digits", preset="small")
    with pytest.raises(UsageError, match=r"preset: expected tables"):
        configuration.apply_preset({"preset": {"small": 3}}, "small")


def synthetic_run(tmp_path, **section):
    table = {
        "task": "regression",
        "data": {"path": str(tmp_path / "real"), "synthetic": {"items": 20, **section}},
        "model": {"name": "mlp"},
        "loss": {"latitudes": "data"} if section["like"] == "era5" else {},
    }
    return configuration.check(table)


def test_a_synthetic_set_is_made_once_and_beside_the_real_one(tmp_path):
    run = synthetic_run(tmp_path, like="era5", grid=[6, 12])
    made = prepare(run, "synthetic", mpi().COMM_SELF)
    folder = tmp_path / "synthetic-era5-20-6x12"
    assert made.data.path == str(folder)
    assert made.data.synthetic is None
    assert made.loss.arguments["latitudes"] == [-90, -54, -18, 18, 54, 90]
    with Dataset.open(folder) as data:
        assert (data.x_shape, data.y_shape, data.count) == ((76, 6, 12), (69, 6, 12), 16)
    before = {p: p.stat().st_mtime_ns for p in folder.iterdir()}
    assert prepare(run, "synthetic", mpi().COMM_SELF) == made
    assert {p: p.stat().st_mtime_ns for p in folder.iterdir()} == before
    # what a run writes down says the same again, without any of this
    assert prepare(made, None, mpi().COMM_SELF) == made
    other = synthetic_run(tmp_path, like="era5", grid=[6, 12], seed=4)
    assert prepare(other, "synthetic", mpi().COMM_SELF).data.path == f"{folder}-seed4"


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path):
    build(synthetic("entsoe", 20, seed=8), tmp_path / "synthetic-entsoe-20")
    with pytest.raises(
        UsageError, match=r"entsoe-20 contains dataset \w+, .* describes \w+; remove"
    ):
        prepare(synthetic_run(tmp_path, like="entsoe"), "synthetic", mpi().COMM_SELF)


def test_data_that_are_not_there(tmp_path):
    run = synthetic_run(tmp_path, like="entsoe")
    with pytest.raises(DataError, match=r"real is not a dataset.*--data synthetic"):
        prepare(run, None, mpi().COMM_SELF)
    plain = configuration.check({"data": {"path": "d"}, "model": {"name": "mlp"}})
    with pytest.raises(UsageError, match=r"\[data.synthetic\]"):
        prepare(plain, "synthetic", mpi().COMM_SELF)
    build(synthetic("entsoe", 20), tmp_path / "load")
    with pytest.raises(DataError, match=r"load has no latitudes"):
        latitudes(tmp_path / "load")


def test_a_grid_is_for_fields_only():
    with pytest.raises(UsageError, match="--grid 24 48 for cifar10: only era5 has a grid"):
        synthetic("cifar10", 20, grid=(24, 48))


def fields_move_eastwards(grid):
    source = synthetic("era5", 10, grid=grid)
    item = source.read("train", 0, 1)
    width = item["x"].shape[-1]
    for columns in range(1, width):
        if (item["y"] == np.roll(item["x"][:, :69], columns, axis=-1)).all():
            return columns * 360 / width
    return math.nan


def test_smaller_fields_move_as_far_as_the_grid_lets_them():
    assert fields_move_eastwards((4, 240)) == 6
    assert fields_move_eastwards((4, 120)) == 6
    assert fields_move_eastwards((4, 48)) == 7.5


def load_csv(path: Path, days: int) -> None:
    """A table as the ENTSO-E transparency platform exports it."""
    lines = ['"Time (CET/CEST)","Day-ahead Total Load Forecast [MW] - Germany (DE)",'
             '"Actual Total Load [MW] - Germany (DE)"']  # fmt: skip
    start = datetime.datetime(2019, 1, 1)
    for quarter in range(days * 96):
        begin = start + datetime.timedelta(minutes=15 * quarter)
        end = begin + datetime.timedelta(minutes=15)
        load = 55_000 + 9_000 * math.sin(2 * math.pi * quarter / 96) + 37 * (quarter % 7)
        span = f"{begin:%d.%m.%Y %H:%M} - {end:%d.%m.%Y %H:%M}"
        lines.append(f'"{span}","{load + 100:.0f}","{load:.0f}"')
    path.write_text("\n".join(lines) + "\n")


def trained(hpcsamp, folder, *arguments):
    """A run on two ranks, which stops and goes on, and its evaluation; returns the metrics."""
    for part in (["--set=training.steps=2"], []):
        done = hpcsamp(2, "train", *arguments, *part, "-o", "run", "--resume", cwd=folder)
        assert done.code == 0, done.err
    assert "resumed after step 2" in done.out
    done = hpcsamp(2, "evaluate", "run", "--samples", "4", cwd=folder)
    assert done.code == 0, done.err
    written = tomllib.loads((folder / "run" / "config.toml").read_text())
    assert "preset" not in written
    assert "synthetic" not in written["data"]
    return json.loads((folder / "run" / "evaluation" / "test.json").read_text())["metrics"]


SHORT = ["--set=training.epochs=2", "--set=training.evaluate_every=2"]


def test_vit_cifar10_small_on_digits(hpcsamp, digits, tmp_path):
    short = [*SHORT, "--set=loss.kl_warmup_epochs=2", "--set=optimizer.lr=5e-3"]
    run = ["vit-cifar10", "--preset", "small", "--data", digits, *short]
    assert trained(hpcsamp, tmp_path, *run)["accuracy"] > 0.3


def test_mlp_entsoe_small_on_a_real_format_table(hpcsamp, tmp_path):
    load_csv(tmp_path / "load.csv", days=30)
    done = hpcsamp(1, "ingest", "entsoe", "load.csv", "--out", "load", cwd=tmp_path)
    assert done.code == 0, done.err
    metrics = trained(hpcsamp, tmp_path, "mlp-entsoe", "--preset=small", "--data=load", *SHORT)
    assert metrics["rmse"] < 3000  # MW; the mean alone is off by 9000 / sqrt(2)


def test_swin_era5_small_on_synthetic_fields(hpcsamp, tmp_path):
    small = ["model.blocks=[2,1,1]", "model.width=24", "data.synthetic.items=20"]
    small = [*SHORT, *(f"--set={s}" for s in small), "--set=evaluation.samples=2"]
    metrics = trained(hpcsamp, tmp_path, "swin-era5", "--preset=small", "--data=synthetic", *small)
    assert (tmp_path / "data" / "synthetic-era5-20-24x48" / "manifest.json").is_file()
    assert metrics["rmse"] < 1.3
    written = tomllib.loads((tmp_path / "run" / "config.toml").read_text())
    assert len(written["loss"]["latitudes"]) == 24


REFUSED = [
    (["vit-cifar10", "--set=model.patch=3"], ["patch = 3", "8 x 8"]),
    (["vit-cifar10", "--set=model.heads=5"], ["heads = 5", "192"]),
    (["mlp-entsoe", "--set=method.name=mean_field"], ["regression", "classification"]),
    (
        ["swin-era5", "--set=task=classification", "--set=loss={}", "--set=likelihood={}"],
        ["swin", "10 outputs", "8 x 8 = 64"],
    ),
    (["vit-cifar10", "--preset=tiny"], ["--preset tiny", "small, digits"]),
]


def test_digits_for_something_they_do_not_fit(refusals, digits, tmp_path):
    """Patch, heads, task, grid: one line, both numbers, on both ranks."""
    rest = ["--data", digits, "-o", tmp_path / "run"]
    found = refusals(2, *(["train", *arguments, *rest] for arguments, _ in REFUSED))
    for done, (_, words) in zip(found, REFUSED, strict=True):
        assert done.code == 2, (done.code, done.err)
        assert len(done.errors) == 1, done.err
        for word in words:
            assert word in done.errors[0]
