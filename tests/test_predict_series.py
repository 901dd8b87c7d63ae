"""Forecasts after the last row of a table."""

import csv
import datetime as dt

import numpy as np
import pytest

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
def run(tmp_path_factory, hpcsamp):
    folder = tmp_path_factory.mktemp("run")
    path, data = write(folder / "all.csv", lines(0, 300)), folder / "set"
    columns = ["--time", "time", "--target", "load", "--id", "area", "--known", "wind"]
    how = [*columns, "--past", "12", "--future", "4", "--out", data]
    assert hpcsamp(1, "ingest", "series", path, *how).code == 0
    few = ["--set", "training.epochs=3", "--set", "loss.kl_warmup_epochs=1"]
    few += ["--set", "method.samples=2", "--set", "evaluation.samples=8"]
    done = hpcsamp(1, "train", "--data", data, "--output", folder / "a", "-q", *few)
    assert done.code == 0, done.err
    return folder / "a"


def test_a_table_is_forecast_as_the_windows_of_the_set(run, tmp_path, hpcsamp):
    import hpcsamp as hs

    out = tmp_path / "out.csv"
    # the last window of the set: values of its future are empty here, and known there
    table = write(tmp_path / "new.csv", lines(280, 20, empty=4))
    done = hpcsamp(1, "predict", run, table, "--out", out)
    assert done.code == 0, done.err
    assert "b: forecast after 2021-01-13 07:00 UTC" in done.out
    rows = list(csv.DictReader(out.read_text().splitlines()))
    assert [row["area"] for row in rows] == ["a"] * 4 + ["b"] * 4
    assert [row["lead"] for row in rows] == ["1", "2", "3", "4"] * 2
    assert rows[0]["time"] == "2021-01-13T08:00:00+00:00"
    found = hs.load(run).predict(run.parent / "set", split="test")
    of = found["series"].values
    units = {0: 1.0, 1: 1000.0}
    for series, part in ((0, rows[:4]), (1, rows[4:])):
        last = int(np.flatnonzero(of == series)[-1])
        recipe = hs.load(run).trained.manifest.source["series"]
        mean, std = recipe["scales"][series]
        assert std == pytest.approx(0.7 * units[series], rel=0.1)
        for key, shift in (("mean", mean), ("std", 0.0)):
            expected = found[key].values[last] * std + shift
            values = [float(row[key]) for row in part]
            np.testing.assert_allclose(values, expected, rtol=2e-5)
        low = found["quantiles"].values[last, 0] * std + mean
        np.testing.assert_allclose([float(r["quantile_0.05"]) for r in part], low, rtol=2e-5)


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
