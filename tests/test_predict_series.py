"""Forecasts after the last row of a table."""

import csv
import datetime as dt
import json

import numpy as np
import pytest

from hpcsamp.data import Dataset
from hpcsamp.report import page
from hpcsamp.report.records import read_run

START = dt.datetime(2021, 1, 1)
NAMES = ("a", "b")
SCALE = {"a": 1.0, "b": 1000.0}


def lines(first, count, empty=0, step=1, drop=(), names=NAMES):
    """Rows of two series, b a thousand times a; of the last ``empty`` times no load is known."""
    rng = np.random.default_rng(2)
    noise = rng.standard_normal(first + count)
    for i in range(first, first + count):
        if i in drop:
            continue
        for name in names:
            load = SCALE[name] * (10 + np.sin(i * np.pi / 12) + 0.1 * noise[i])
            cell = "" if i >= first + count - empty else f"{load:.6f}"
            yield f"{START + dt.timedelta(hours=step * i)},{name},{cell},{i % 5}"


def write(path, rows, head="time,area,load,wind"):
    path.write_text("\n".join([head, *rows]) + "\n")
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory, commands):
    folder = tmp_path_factory.mktemp("run")
    path, data = write(folder / "all.csv", lines(0, 300)), folder / "set"
    columns = ["--time", "time", "--target", "load", "--id", "area", "--known", "wind"]
    how = [*columns, "--past", "12", "--future", "4", "--out", data]
    few = ["--set", "training.epochs=3", "--set", "loss.kl_warmup_epochs=1"]
    few += ["--set", "method.samples=2", "--set", "evaluation.samples=8"]
    few += ["--set", "training.precision=float64", "--set", "method.samples_per_pass=1"]
    a = folder / "a"
    done = commands(
        1,
        ["ingest", "series", path, *how],
        ["train", "--data", data, "--output", a, "-q", *few],
        ["evaluate", a, "--uncalibrated", "--json", folder / "plain.json"],
        ["recalibrate", a],
        ["evaluate", a, "--json", folder / "one.json"],
    )
    assert done.code == 0, done.err
    return a


def table(path):
    return json.loads(path.read_text())


def test_metrics_of_several_series_are_in_their_units(run):
    import hpcsamp as hs

    plain = table(run.parent / "plain.json")
    found = hs.load(run, recalibrated=False).predict(run.parent / "set", split="test")
    truth, of = found["target"].values, found["series"].values.astype(int)
    known = list(csv.DictReader((run.parent / "all.csv").read_text().splitlines()))
    for k, name in enumerate(NAMES):  # targets are those of the table
        values = [float(row["load"]) for row in known if row["area"] == name]
        last = truth[np.flatnonzero(of == k)[-1]]
        np.testing.assert_allclose(last, values[-4:], rtol=1e-6)
    error = found["mean"].values - truth
    by, total = plain["series"], plain["metrics"]
    assert (by["labels"], plain["units"]) == (["a", "b"], {})
    assert found["series"].attrs["long_name"] == "0: a, 1: b"
    for k in range(2):
        own = error[of == k]
        assert by["rmse"][k] == pytest.approx(np.sqrt((own**2).mean()), rel=1e-6)
        assert by["bias"][k] == pytest.approx(own.mean(), rel=1e-6)
        assert by["items"][k] == (of == k).sum()
        low, high = found["quantiles"].values[of == k][:, [0, 2]].swapaxes(0, 1)
        inside = (low <= truth[of == k]) & (truth[of == k] <= high)
        assert by["coverage_90"][k] == pytest.approx(inside.mean())
    assert total["rmse"] == pytest.approx(np.sqrt((error**2).mean()), rel=1e-6)
    assert total["mae"] == pytest.approx(np.abs(error).mean(), rel=1e-6)
    # b is a thousand times a, so that its standardised windows are the same
    for key in ("rmse", "mae", "crps", "spread"):
        assert by[key][1] == pytest.approx(1000 * by[key][0], rel=1e-3)
        power = 1 if key in ("mae", "crps") else 2
        assert total[key] ** power == pytest.approx(np.mean(np.power(by[key], power)), rel=1e-9)
    scales = np.asarray(hs.load(run).trained.manifest.source["series"]["scales"])[:, 1]
    shift = total["nll_physical"] - total["nll"]
    std = hs.load(run).trained.manifest.stats["y"].std
    assert shift == pytest.approx(4 * np.log(scales).mean() + np.log(std).sum(), rel=1e-9)


def test_a_report_has_a_table_of_the_series(run):
    record = read_run(run)
    evaluation = record.evaluation("test")
    for runs in ([record], [record, record]):
        text = page.html(runs, [evaluation] * len(runs), [], [])
        assert text.count("Metrics of each series</h2>") == 1
        assert text.count('<th scope="col">series</th>') == len(runs)
        value = evaluation.series["rmse"][1]
        assert text.count(f"<td>{value:.4g}</td>") == len(runs)


def test_intervals_of_several_series_have_their_widths(run):
    one = table(run.parent / "one.json")
    import hpcsamp as hs

    found = hs.load(run).predict(run.parent / "set", split="test")
    of, ends = found["series"].values, found["interval"].values
    width = [(ends[of == k, 1] - ends[of == k, 0]).mean() for k in range(2)]
    assert width[1] == pytest.approx(1000 * width[0], rel=1e-3)
    assert one["metrics"]["conformal_width"] == pytest.approx(np.mean(width), rel=1e-6)
    truth = found["target"].values
    inside = (ends[:, 0] <= truth) & (truth <= ends[:, 1])
    assert one["metrics"]["conformal_coverage"] == pytest.approx(inside.mean())


def test_adaptive_intervals_of_several_series_are_refused(run, commands):
    done = commands(1, ["recalibrate", run, "--adaptive", "0.05"])
    assert done.code == 1
    assert "adaptive intervals need the items of one series in time order" in done.errors[0]


def test_scores_of_series_do_not_depend_on_the_grid(run, hpcsamp):
    out = run.parent / "three.json"
    done = hpcsamp(3, "evaluate", run, "--json", out, "--set", "parallel.samples=1")
    assert done.code == 0, done.err
    one, other = table(run.parent / "one.json"), table(out)
    for key, value in one["metrics"].items():
        assert other["metrics"][key] == pytest.approx(value, rel=1e-10), key
    for key, values in one["series"].items():
        if key != "labels":
            np.testing.assert_allclose(other["series"][key], values, rtol=1e-10)


def test_a_table_is_forecast_as_the_windows_of_the_set(run, tmp_path, hpcsamp):
    import hpcsamp as hs

    out = tmp_path / "out.csv"
    # the last window of the set: values of its future are empty here, and known there
    new = write(tmp_path / "new.csv", lines(280, 20, empty=4))
    done = hpcsamp(1, "predict", run, new, "--out", out)
    assert done.code == 0, done.err
    assert "b: forecast after 2021-01-13 07:00 UTC" in done.out
    rows = list(csv.DictReader(out.read_text().splitlines()))
    assert [row["area"] for row in rows] == ["a"] * 4 + ["b"] * 4
    assert [row["lead"] for row in rows] == ["1", "2", "3", "4"] * 2
    assert rows[0]["time"] == "2021-01-13T08:00:00+00:00"
    found = hs.load(run).predict(run.parent / "set", split="test")
    of = found["series"].values
    for series, part in ((0, rows[:4]), (1, rows[4:])):
        last = int(np.flatnonzero(of == series)[-1])
        for key in ("mean", "std"):
            values = [float(row[key]) for row in part]
            np.testing.assert_allclose(values, found[key].values[last], rtol=2e-5)
        low = found["quantiles"].values[last, 0]
        np.testing.assert_allclose([float(r["quantile_0.05"]) for r in part], low, rtol=2e-5)
        ends = found["interval"].values[last]
        np.testing.assert_allclose([float(r["interval_upper"]) for r in part], ends[1], rtol=2e-5)


def test_windows_in_python_are_in_the_units_of_their_series(run):
    import hpcsamp as hs
    from hpcsamp.errors import DataError

    posterior = hs.load(run)
    with Dataset.open(run.parent / "set", "test") as dataset:
        x, _ = dataset.read(range(dataset.count))
    expected = posterior.predict(run.parent / "set", split="test")
    recipe = posterior.trained.manifest.source["series"]
    of = expected["series"].values.astype(int)
    mean, std = np.asarray(recipe["scales"])[of].T[..., None]
    raw = x.astype(float)
    raw[:, 0] = np.where(raw[:, 1] > 0, raw[:, 0] * std + mean, 0.0)  # the rest is not known
    found = posterior.predict(raw, series=[NAMES[k] for k in of])
    for key in ("mean", "std", "quantiles", "interval"):
        np.testing.assert_allclose(found[key], expected[key], rtol=1e-5)
    one = posterior.predict(raw[-1], series="b")
    np.testing.assert_allclose(one["mean"], expected["mean"][-1], rtol=1e-5)
    for names, message in (
        (None, "the training set of the run has 2 series, each scaled by its own mean and stand"),
        ("c", "but none is called 'c': a, b"),
        (["a"], f"series has 1 names, but x has {len(x)} windows"),
    ):
        with pytest.raises(DataError, match=message):
            posterior.predict(raw, series=names)
    with pytest.raises(DataError, match="x"):
        posterior.predict(raw[:, :2], series="a")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (lines(0, 14, empty=4), "series a: 10 values up to 2021-01-01 09:00 UTC, but the run "),
        (lines(0, 20), "series a: 'wind' has no value at 2021-01-01 20:00 UTC; it must be known"),
        (lines(0, 30, empty=4, drop=(20,)), "series a: 1 of the last 12 values are missing, the f"),
        (lines(0, 30, empty=4, step=2), "has a row every 2 h, but the run was trained on a series"),
        ((r.replace(",a,", ",c,") for r in lines(0, 30, names=("a",))), "series c is not one of t"),
    ],
)
def test_tables_that_do_not_fit_are_refused(run, tmp_path, rows, message):
    import hpcsamp as hs
    from hpcsamp.errors import DataError
    from hpcsamp.ingest.series_rows import Columns, read_rows
    from hpcsamp.prediction.series_table import last_windows

    recipe = hs.load(run).trained.manifest.source["series"]
    path = write(tmp_path / "new.csv", rows)
    columns = Columns("time", "load", ("wind",), "area")
    with pytest.raises(DataError) as e:
        last_windows(path, read_rows([path], columns, None), recipe, plain=False)
    assert message in str(e.value)


def test_a_missing_column_is_one_line(run, tmp_path, hpcsamp):
    path = write(tmp_path / "new.csv", ["2021-01-01,a,1"], "time,area,load")
    done = hpcsamp(1, "predict", run, path, "--out", tmp_path / "out.csv")
    assert done.code == 2
    assert done.errors == [f"hpcsamp: error: {path} has no column 'wind', only time, area, load"]
