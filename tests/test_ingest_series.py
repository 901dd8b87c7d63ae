"""Windows of time series from tables."""

import datetime as dt

import numpy as np
import pytest

from hpcsamp.data import Dataset
from hpcsamp.errors import DataError, UsageError
from hpcsamp.ingest import build
from hpcsamp.ingest.numbers import Notation
from hpcsamp.ingest.series import series
from hpcsamp.run.usual import COLUMNS, usual

START = dt.datetime(2021, 1, 1)


def hourly(path, count=400, change=lambda rows: rows, head="utc_timestamp,load"):
    rows = [[f"{START + dt.timedelta(hours=i):%Y-%m-%dT%H:%M:%S}Z", str(i)] for i in range(count)]
    path.write_text("\n".join([head, *(",".join(r) for r in change(rows))]) + "\n")
    return path


def both(source, split):
    found = source.read(split, 0, source.splits[split])
    return found["x"], found["y"], found["origin"]


def test_windows_stay_in_their_split_and_know_no_future(tmp_path):
    path = hourly(tmp_path / "a.csv")
    plain = series([path], "utc_timestamp", "load", 24, 6, calendar="none")
    for split, low, high in (("train", 0, 320), ("valid", 320, 360), ("test", 360, 400)):
        x, y, origin = both(plain, split)
        assert plain.splits[split] == high - low - 30 + 1
        assert (x.min(), y.max()) == (low, high - 1)
        assert (np.diff(np.concatenate([x, y], 1)) == 1).all()
        begin = (START - dt.datetime(1970, 1, 1)).total_seconds() / 60
        assert (origin == begin + 60 * x[:, -1]).all()
    whole = series([path], "utc_timestamp", "load", 24, 6, every=3)
    names = whole.arrays["x"].names
    assert names[:2] == ["load", "known"]
    assert len(names) == 6  # the train part has weeks, but not a year
    x, y, _ = both(whole, "valid")
    assert len(x) == 4
    assert (x[:, 0, 24:] == 159.5).all()  # the mean of train, not the values to forecast
    assert (x[:, 1] == (np.arange(30) < 24)).all()
    hours = (x[:, 0, 0][:, None] + np.arange(30)) % 24
    np.testing.assert_allclose(x[:, 2], np.sin(2 * np.pi * hours / 24), atol=1e-6)
    assert ((x[:, 0, 0] % 3) == 0).all()  # windows of all splits begin at multiples of 3
    build(whole, tmp_path / "set")
    manifest = Dataset.open(tmp_path / "set").manifest
    assert manifest.source["series"]["step"] == 3600
    cycles = "day+week+year"
    build(series([path], "utc_timestamp", "load", 34, 6, calendar=cycles), tmp_path / "large")
    chosen = usual(tmp_path / "large")  # the settings of tables, not those of images
    assert f"prior_std = {COLUMNS.prior_std}" in chosen
    assert f"lr = {COLUMNS.lr}" in chosen
    assert "hidden = [128, 128]" in chosen


def test_missing_values_are_dropped_or_masked(tmp_path):
    def holes(rows):
        rows[100][1] = ""
        return rows[:200] + rows[205:]

    path = hourly(tmp_path / "a.csv", change=holes)
    dropped = series([path], "utc_timestamp", "load", 24, 6, calendar="none")
    assert dropped.splits["train"] == 291 - 30 - 34
    assert "5 times are missing in 1 gaps, the first after 2021-01-09 07:00 UTC" in dropped.report
    kept = series([path], "utc_timestamp", "load", 24, 6, calendar="none", missing="mask")
    x, y, _ = both(kept, "train")
    assert kept.missing == "nan"
    assert len(x) == 291
    assert (x[90, :, 10] == [x[0, 0, 24], 0]).all()
    assert np.isnan(y[76, 0])


def test_several_series_are_scaled_by_train(tmp_path):
    rows = [
        f"{START + dt.timedelta(hours=i)};{name};{str(scale * i).replace('.', ',')}"
        for i in range(200)
        for name, scale in (("a", 1.5), ("b", 1000))
    ]
    path = tmp_path / "two.csv"
    path.write_text("\n".join(["time;area;load", *rows]))
    how = {"id_column": "area", "delimiter": ";", "notation": Notation(decimal=",")}
    source = series([path], "time", "load", 10, 5, **how)
    found = source.read("train", 0, source.splits["train"])
    half = len(found["y"]) // 2
    np.testing.assert_allclose(found["y"][:half], found["y"][half:], atol=1e-5)
    assert (found["series"] == np.arange(2 * half) // half).all()
    mean, std = source.source["series"]["scales"][1]
    assert source.arrays["y"].units == "standard deviations"
    assert (mean, std) == (79_500, pytest.approx(1000 * np.arange(160).std()))


def test_local_times(tmp_path):
    local = [START.replace(month=10, day=30) + dt.timedelta(hours=h) for h in range(48)]
    local = local[:27] + local[26:]  # on 2021-10-31, 02:00 occurs twice in Berlin
    path = tmp_path / "local.csv"
    path.write_text("\n".join(["time,load", *(f"{t},{i}" for i, t in enumerate(local))]))
    how = {"valid": 0, "test": 0, "calendar": "none"}
    source = series([path], "time", "load", 10, 5, timezone="Europe/Berlin", **how)
    assert source.splits["train"] == 49 - 14
    assert source.report[0].startswith("49 rows from 2021-10-29 22:00 to 2021-10-31 22:00 UTC")
    with pytest.raises(DataError, match=r"line 29: 2021-10-31 02:00 UTC occurs twice .*line 28"):
        series([path], "time", "load", 10, 5, **how)
    with pytest.raises(UsageError, match="Europe/Bonn: no such time zone"):
        series([path], "time", "load", 10, 5, timezone="Europe/Bonn")
    path.write_text("time,load\n2021-03-28 01:00,1\n2021-03-28 02:00,2\n2021-03-28 03:00,3\n")
    with pytest.raises(DataError, match="line 3: 2021-03-28 02:00 does not exist"):
        series([path], "time", "load", 1, 1, timezone="Europe/Berlin")


def test_faults_have_both_numbers(tmp_path):
    def late(rows):
        rows[50][0] = rows[50][0].replace(":00:00Z", ":07:00Z")
        return rows

    path = hourly(tmp_path / "a.csv", change=late)
    with pytest.raises(DataError, match=r"line 52: .* is 67 min after .* series is 1 h"):
        series([path], "utc_timestamp", "load")
    path = hourly(tmp_path / "b.csv", 50)
    with pytest.raises(DataError, match=r"40 of 50 times are train, .* 96 \+ 24 = 120"):
        series([path], "utc_timestamp", "load")
    with pytest.raises(UsageError, match="'month' is not one of"):
        series([path], "utc_timestamp", "load", 4, 2, calendar="day+month")


def test_entsoe_header(tmp_path):
    rows = [START + dt.timedelta(hours=h) for h in range(60)]
    head = '"Time (CET/CEST)","Actual Total Load [MW] - FR"'
    lines = [f'"{t:%d.%m.%Y %H:%M} - x",{i if i != 30 else "n/e"}' for i, t in enumerate(rows)]
    path = tmp_path / "fr.csv"
    path.write_text("\n".join([head, *lines]))
    target = "Actual Total Load [MW] - FR"
    source = series([path], "Time (CET/CEST)", target, 10, 5, calendar="none")
    assert source.report[0].startswith("60 rows from 2020-12-31 23:00 to 2021-01-03 10:00 UTC")
    assert "15 of " in source.report[-1]


def test_parquet_equals_csv(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    times = pa.array([START + dt.timedelta(hours=i) for i in range(400)], pa.timestamp("us", "UTC"))
    pq.write_table(pa.table({"utc_timestamp": times, "load": list(map(float, range(400)))}),
                   tmp_path / "a.parquet")  # fmt: skip
    csv = hourly(tmp_path / "a.csv")
    one, two = (series([p], "utc_timestamp", "load", 24, 6) for p in (csv, tmp_path / "a.parquet"))
    for a, b in zip(both(one, "test"), both(two, "test"), strict=True):
        np.testing.assert_array_equal(a, b)
    naive = pa.array([START + dt.timedelta(hours=i) for i in range(400)], pa.timestamp("us"))
    pq.write_table(pa.table({"t": naive, "load": list(map(float, range(400)))}),
                   tmp_path / "n.parquet")  # fmt: skip
    local = hourly(tmp_path / "n.csv", head="t,load")
    local.write_text(local.read_text().replace("Z,", ","))
    how = {"timezone": "Asia/Tokyo"}
    one, two = (series([p], "t", "load", 24, 6, **how) for p in (local, tmp_path / "n.parquet"))
    assert two.report[0].startswith("400 rows from 2020-12-31 15:00")
    for a, b in zip(both(one, "test"), both(two, "test"), strict=True):
        np.testing.assert_array_equal(a, b)


def test_quarter_hours_and_holidays(tmp_path):
    times = [START + dt.timedelta(minutes=15 * i) for i in range(96 * 12)]
    rows = [f"{t:%Y-%m-%dT%H:%M:%SZ},{i},{i}" for i, t in enumerate(times)]
    path = tmp_path / "opsd.csv"  # the columns of OPSD's time_series_15min_singleindex.csv
    head = "utc_timestamp,cet_cest_timestamp,DE_load_actual_entsoe_transparency"
    path.write_text("\n".join([head, *rows]))
    target = head.rpartition(",")[2]
    plain = series([path], "utc_timestamp", target, 96, 24, calendar="day")
    assert plain.report[0].endswith("one every 15 min")
    assert plain.coords["horizon"].values.tolist() == [15.0 * k for k in range(1, 25)]
    pytest.importorskip("holidays", reason="hpcsamp[series] is not installed")
    how = {"holidays": "DE-BW", "timezone": "Europe/Berlin", "calendar": "none"}
    found = series([path], "utc_timestamp", target, 96, 24, **how)
    assert found.arrays["x"].names[-1] == "holiday in DE-BW"
    local = [t + dt.timedelta(hours=1) for t in times]
    expected = [(t.month, t.day) in ((1, 1), (1, 6)) for t in local]  # new year and epiphany
    np.testing.assert_array_equal(found.covariates[0, 0], expected)
    with pytest.raises(UsageError, match="--holidays XX"):
        series([path], "utc_timestamp", target, 96, 24, holidays="XX")
