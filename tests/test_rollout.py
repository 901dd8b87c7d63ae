"""Rollouts: a network is applied to its own outputs, on any grid, and written for xarray."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import hpcsamp as hs
from hpcsamp.data.times import parse_times
from hpcsamp.errors import DataError, UsageError
from hpcsamp.ingest.fields import features
from hpcsamp.prediction.rollout import march
from hpcsamp.report.records import MissingMaterialError, read_run
from hpcsamp.report.scorecard.figures import forecast_maps
from hpcsamp.report.scorecard.scores import read_forecast

TRAIN = ["--preset", "tiny", "--data", "synthetic", "-q"]
SETTINGS = ["training.precision=float64", "training.steps=2", "data.synthetic.items=40"]
FORECAST = ["--rollout", "3", "--members", "3", "--perturb", "0.1", "--items", "3",
            "--scores"]  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory, commands):
    """A run, and its forecast by one process."""
    folder = tmp_path_factory.mktemp("rollout")
    sets = [word for setting in SETTINGS for word in ("--set", setting)]
    done = commands(
        1,
        ["train", "mixer-era5", *TRAIN, *sets, "--output", "run"],
        ["predict", "run", *FORECAST, "--out", "one.zarr", "--json", "one.json", "-q"],
        cwd=folder,
    )
    assert done.code == 0, done.err
    return folder


def test_forecasts_do_not_depend_on_the_grid(place, commands):
    # ranks, samples and ending of each; the last has 2 sample ranks of 2 data groups
    grids = {"samples": (2, "world", "zarr"), "data": (2, "none", "h5"), "both": (4, "2", "zarr")}
    for count in (2, 4):
        lines = [
            ["predict", "run", *FORECAST, "--out", f"{name}.{ending}", "--set",
             f"parallel.samples={value}", "--json", f"{name}.json", "-q"]
            for name, (ranks, value, ending) in grids.items() if ranks == count
        ]  # fmt: skip
        done = commands(count, *lines, cwd=place, timeout=120)
        assert done.code == 0, done.err
    one = xr.open_zarr(place / "one.zarr", decode_timedelta=True)
    others = [
        xr.open_zarr(place / "samples.zarr", decode_timedelta=True),
        xr.open_dataset(place / "data.h5", engine="h5netcdf", decode_timedelta=True),
        xr.open_zarr(place / "both.zarr", decode_timedelta=True),
    ]
    for other in others:
        assert one.forecast.dims == other.forecast.dims
        assert list(other.variable.values) == list(one.variable.values)
        np.testing.assert_allclose(other.forecast, one.forecast, rtol=1e-10, atol=1e-10)
    for name in grids:
        assert_same(scores_of(place, name), scores_of(place, "one"))


def scores_of(place, name):
    return json.loads((place / f"{name}.json").read_text())["scores"]


def assert_same(a, b):
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif a and isinstance(a, list) and not isinstance(a[0], str):
        np.testing.assert_allclose(
            np.asarray(a, float), np.asarray(b, float), rtol=1e-10, atol=1e-10, equal_nan=True
        )
    else:
        assert a == b


def test_scores_are_those_of_the_states_in_the_file(place, monkeypatch):
    """Formulas of xarray on the written states, and the climatology that the set keeps."""
    monkeypatch.chdir(place)
    found = scores_of(place, "one")
    states = xr.open_zarr("one.zarr").forecast.values
    data = hs.load("run").open(None, "test")
    every = data.read(range(data.count))
    train = hs.load("run").training_set()
    normal = train.read(range(train.count))[1].astype(float)
    # 5 days: a mean with the time of the day, items 3 h apart and targets 6 h later
    every_hour = (np.arange(train.count + 40) * 3 + 6) / 24 * 2 * np.pi
    terms = np.stack([np.ones_like(every_hour), np.cos(every_hour), np.sin(every_hour)], 1)
    own_terms = terms[: train.count]
    fitted = np.linalg.lstsq(own_terms, normal.reshape(train.count, -1), rcond=None)[0]
    std = (normal - (own_terms @ fitted).reshape(normal.shape)).std(0)
    latitude = np.linspace(-90, 90, 8)
    area = np.cos(np.deg2rad(latitude)).clip(0)
    area = (area / area.sum() / 16)[:, None]

    def over(x):
        return (x * area).sum(axis=(-1, -2))

    observed_items = [0, 0, 0]
    for k in range(3):
        # items are 3 h apart and steps 6 h: the state after k steps is that of item + 2 k
        own = [i for i in range(3) if i + 2 * k < data.count]
        observed_items[k] = len(own)
        if not own:
            assert np.isnan(np.asarray(found["acc"], float)[k]).all()
            continue
        y = every[1][[i + 2 * k for i in own]].astype(float)
        x = np.moveaxis(states[own][:, :, k], 1, 0)  # member, item, variable, ...
        mean = (terms[[i + 2 * k for i in own]] @ fitted).reshape(y.shape)
        centre = x.mean(0)
        of = {n: np.asarray(v[k], float) for n, v in found["regions"]["global"].items()}
        close = {"rtol": 1e-9, "atol": 1e-9}
        np.testing.assert_allclose(of["bias"], over(centre - y).mean(0), **close)
        rmse = np.sqrt(over((centre - y) ** 2).mean(0))
        np.testing.assert_allclose(of["rmse"], rmse, **close)
        spread = np.sqrt(over(x.var(0, ddof=1)).mean(0))
        np.testing.assert_allclose(of["spread_skill"], np.sqrt(4 / 3) * spread / rmse, **close)
        pairs = np.abs(x[:, None] - x[None]).sum((0, 1))
        fair = over(np.abs(x - y).mean(0) - pairs / 12).mean(0)
        np.testing.assert_allclose(of["crps_fair"], fair, **close)
        brier = ((x > mean + std).mean(0) - (y > mean + std)) ** 2
        np.testing.assert_allclose(of["brier"], over(brier).mean(0), **close)
        a, o = centre - mean, y - mean
        acc = over(a * o) / np.sqrt(over(a * a) * over(o * o))
        np.testing.assert_allclose(np.asarray(found["acc"], float)[k], acc.mean(0), **close)
        norm = np.sqrt(over((x - y) ** 2)).mean(0)
        norm = norm - np.sqrt(over((x[:, None] - x[None]) ** 2)).sum((0, 1)) / 12
        np.testing.assert_allclose(
            np.asarray(found["energy_score"], float)[k], norm.mean(0), **close
        )
        np.testing.assert_allclose(np.asarray(found["rank_histogram"][k]).sum(-1), 1)
        below = (x < y).sum(0) == 1
        second = np.asarray(found["rank_histogram"], float)[k, :, 1]
        np.testing.assert_allclose(second, over(below).mean(0), **close)
        power = (np.abs(np.fft.rfft(y)) ** 2 / 16**2 * area * 16).sum(-2).mean(0)
        np.testing.assert_allclose(
            np.asarray(found["spectra"]["observed"], float)[k], power, **close
        )
        start = every[0][own][:, :69]
        persistence = np.sqrt(over((start - y) ** 2).mean(0))
        np.testing.assert_allclose(of["rmse_persistence"], persistence, rtol=1e-5)
    assert [row[0] for row in np.asarray(found["items"])] == observed_items
    kept = json.loads(Path("run/forecasts/test.json").read_text())
    assert kept["members"] == 3
    assert kept["seal"]
    kept_acc, found_acc = (np.asarray(of["acc"], float) for of in (kept["scores"], found))
    np.testing.assert_allclose(kept_acc, found_acc, rtol=1e-9, equal_nan=True)


def test_maps_of_a_scorecard_are_of_the_kept_forecast(place, monkeypatch):
    """The item after 2 steps: the target of the item whose input is one step later."""
    monkeypatch.chdir(place)
    kept = read_forecast(read_run("run"), "test")
    fig = forecast_maps(kept, 0, None)
    assert "item 0 after 12 hours, 3 members" in fig.get_label()
    mean, truth = (axes.collections[0].get_array() for axes in fig.axes[:2])
    variable = kept.variables.index("2m_temperature")
    states = xr.open_zarr("one.zarr").forecast.values[0, :, 1, variable]
    np.testing.assert_allclose(mean, states.mean(0), rtol=1e-10)
    observed = hs.load("run").open(None, "test").read([2])[1][0, variable]
    np.testing.assert_array_equal(truth, observed.astype(float))
    with pytest.raises(MissingMaterialError, match="item 0 is not observed after 3 steps"):
        forecast_maps(kept, 0, 3)


def test_a_forecast_opens_with_its_coordinates(place):
    one = xr.open_zarr(place / "one.zarr", decode_timedelta=True)
    assert one.forecast.dims == (
        "init_time", "member", "lead_time", "variable", "latitude", "longitude",
    )  # fmt: skip
    assert list(one.lead_time.values / np.timedelta64(1, "h")) == [6, 12, 18]
    assert one.init_time.dtype.kind == "M"
    assert one.latitude.attrs == {"units": "degrees_north", "standard_name": "latitude"}
    assert one.variable.values[3] == "2m_temperature"
    assert np.isfinite(one.forecast.values).all()


def test_each_step_is_a_prediction_from_the_last_state(place, monkeypatch):
    """A step in other hands: the network of each member on inputs that are put together here."""
    monkeypatch.chdir(place)
    posterior = hs.load(place / "run")
    data = posterior.open(None, "test")
    x = data.read(range(2))[0].astype(float)
    times = np.datetime64("2000-01-01T00", "s") + np.arange(2) * np.timedelta64(3, "h")
    found = posterior.rollout(x, 3, 2, times=times)
    assert (found.init_time.values == times).all()
    stats = data.manifest.stats
    mean, std = (np.asarray(v)[:, None, None] for v in (stats["x"].mean, stats["x"].std))
    to, by = (np.asarray(v)[:, None, None] for v in (stats["y"].mean, stats["y"].std))
    latitude, longitude = found.latitude.values, found.longitude.values
    import torch

    for member in range(2):
        network, state = posterior.with_samples(2).module(member), x.copy()
        for lead in range(3):
            scaled = torch.from_numpy((state - mean) / np.where(std > 0, std, 1))
            with torch.no_grad():
                out = network(scaled).numpy() * by + to
            np.testing.assert_allclose(found.forecast[:, member, lead], out, rtol=1e-8, atol=1e-8)
            state[:, :69] = out
            state[:, -4:] = [
                features(latitude, longitude, t + (lead + 1) * np.timedelta64(6, "h"))
                for t in times
            ]


def test_a_member_is_drawn_once_for_all_lead_times(place, monkeypatch):
    monkeypatch.chdir(place)
    posterior = hs.load(place / "run")
    method, drawn, held = posterior.method, [], []
    method.predict_per_pass(1)
    times, x = ["2000-01-01"], posterior.open(None, "test").read(range(1))[0]
    posterior.rollout(x, 1, 2, times=times)  # the passes that examine the network draw, too
    plain = method._noise

    def noise(step, samples, *others):
        drawn.extend(samples)
        held.append(len(method._kept))
        return plain(step, samples, *others)

    monkeypatch.setattr(method, "_noise", noise)
    kept = posterior.rollout(x, 3, 2, times=times)
    assert drawn == held == [0, 1]
    monkeypatch.setattr(march, "DRAWS", 0)  # without room, each lead time draws again
    assert posterior.rollout(x, 3, 2, times=times).equals(kept)
    assert drawn == [0, 1] * 4
    assert not any(held[2:])  # the last draw is freed before the next


def test_what_cannot_be_rolled_out(place, monkeypatch):
    monkeypatch.chdir(place)
    posterior = hs.load(place / "run")
    x = posterior.open(None, "test").read(range(2))[0]
    with pytest.raises(DataError, match=r"--rollout 2: the input 'solar_time_cos' .* 1 lead time"):
        posterior.rollout(x, 2)
    with pytest.raises(UsageError, match=r"times has shape \(1,\), but there are 2 items"):
        posterior.rollout(x, 2, times=["2000-01-01"])
    axes = posterior.trained.axes
    strange = [*axes["y"]]
    strange[0] = type(strange[0])("target_channel", np.asarray(["rain"] * 69, object))
    axes["y"] = strange
    with pytest.raises(UsageError, match=r"the output 'rain' is not a variable of the input"):
        posterior.rollout(x, 1)


def test_options_of_rollouts(place, refusals):
    predict = ["predict", "run", "--out"]
    one, two, three, four = refusals(
        1,
        [*predict, "a.zarr", "--members", "3"],
        [*predict, "a.csv", "--rollout", "3"],
        [*predict, "one.zarr", "--rollout", "3"],
        [*predict, "b.zarr", "--rollout", "3", "--members", "1", "--scores"],
        cwd=place,
    )
    assert "--members is for forecasts: add --rollout STEPS" in one.err
    assert "a.csv" in two.err
    assert "one.zarr already exists" in three.err
    assert "--scores with 1 member: the spread and the fair CRPS need at least 2" in four.err


def test_units_of_times():
    assert parse_times(np.asarray([1.5]), "days since 1900-01-01")[0] == np.datetime64(
        "1900-01-02T12"
    )
    with pytest.raises(DataError, match="times have units 'fortnights'"):
        parse_times(np.asarray([1.0]), "fortnights")
