"""Climatologies by season and time of day: least squares, missing values, files of datasets."""

import h5py
import numpy as np
import pytest
from field_sets import START, fields

from hpcsamp.data.climatology import ClimatologySums, read_climatology, terms_at
from hpcsamp.data.times import parse_times
from hpcsamp.errors import DataError
from hpcsamp.ingest import build

TIMES = START.astype("datetime64[s]") + np.arange(900) * np.timedelta64(18, "h")  # 1.8 years


def of_parts(y, times=TIMES, parts=3):
    sums = ClimatologySums(y.shape[1:])
    for rows in np.array_split(np.arange(len(y)), parts):
        one = ClimatologySums(y.shape[1:])
        one.add(times[rows], y[rows])
        sums.merge(one)
    return sums.solve()


def test_the_mean_is_the_least_squares_fit_of_each_point():
    generator = np.random.default_rng(0)
    day = (TIMES - TIMES.astype("M8[Y]")) / np.timedelta64(1, "D")
    y = 280 + 9 * np.cos(2 * np.pi * (day - 20) / 365)[:, None, None, None]
    y = y + generator.normal(size=(900, 2, 2, 3))
    y[::7, 0, 0, 0] = np.nan
    y[:, 1, 1, 2] = np.nan
    made = of_parts(y)
    terms = terms_at(TIMES, 900)
    mean = made.mean(TIMES, 900, range(2))
    assert np.isnan(mean[:, 1, 1, 2]).all()
    for at in ((0, 0, 0), (0, 1, 2), (1, 0, 1)):
        own = y[(slice(None), *at)]
        known = np.isfinite(own)
        truth = terms @ np.linalg.lstsq(terms[known], own[known], rcond=None)[0]
        np.testing.assert_allclose(mean[(slice(None), *at)], truth, rtol=1e-10)
        assert made.std[at] == pytest.approx((own - truth)[known].std(), rel=1e-8)
    winter, summer = made.mean(np.array(["2003-01-15T06", "2003-07-15T06"], "M8[s]"), 2, range(2))
    assert 16 < (winter - summer)[0].mean() < 20


def test_less_than_a_year_has_no_seasons():
    """100 times at 0 and 12 UTC: the sine of the hour is 0, and the days differ."""
    times = START.astype("datetime64[s]") + np.arange(100) * np.timedelta64(12, "h")
    y = np.arange(100.0).reshape(100, 1, 1, 1) % 2 + 3
    made = of_parts(y, times)
    later = times[:2] + np.timedelta64(180, "D")
    np.testing.assert_allclose(made.mean(later, 2, range(1)).ravel(), [3, 4], rtol=1e-12)
    assert not made.coefficients[1:5].any()
    constant = ClimatologySums((1, 1, 1))
    constant.add(None, y)
    assert constant.solve().mean(None, 1, range(1)).item() == pytest.approx(3.5)


def test_the_ingest_writes_it_and_that_of_another_set_is_refused(tmp_path):
    source = fields({"train": 30, "valid": 4})
    uid = build(source, tmp_path / "a", shard_bytes=3000).uid
    assert not list((tmp_path / "a").glob("*.npz"))
    assert len(list((tmp_path / "a").glob("shard-*.h5"))) > 2  # sums of several shards
    found = read_climatology(tmp_path / "a", uid, ["v", "u"])
    train = source.items["train"]
    times = parse_times(train["time"], source.coords["time"].units) + np.timedelta64(6, "h")
    truth = of_parts(train["y"], times, 1)
    np.testing.assert_allclose(found.coefficients, truth.coefficients, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found.std, truth.std, rtol=1e-9)
    words = (
        r"a/climatology.h5 is the climatology of another dataset, of v, u from "
        r"2001-12-30T06:00:00 to 2002-01-06T12:00:00; this dataset has t2m: remove the file"
    )
    with pytest.raises(DataError, match=words):
        read_climatology(tmp_path / "a", "other", ["t2m"])
    with h5py.File(tmp_path / "a/climatology.h5", "a") as f:
        del f["coefficients"]  # as older versions wrote it
    assert read_climatology(tmp_path / "a", "other", ["t2m"]) is None
