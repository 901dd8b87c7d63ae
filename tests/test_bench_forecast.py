"""Forecasts of baselines and runs over the same origins, and their scores."""

import datetime as dt
import json
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from hpcsamp.bench.forecast.compare import Options, compare, groups_of
from hpcsamp.bench.forecast.origins import Origins, one_series, read_origins
from hpcsamp.bench.forecast.scores import (
    crps_of_normal,
    crps_of_quantiles,
    crps_of_values,
    over_seeds,
    scores,
)
from hpcsamp.bench.forecast.seasonal import last_season, seasonal
from hpcsamp.errors import UsageError
from hpcsamp.ingest import build
from hpcsamp.ingest.series import series

START = dt.datetime(2021, 1, 1)


def test_crps_of_each_form_is_its_integral():
    rng = np.random.default_rng(0)
    y, t = rng.standard_normal(5), np.linspace(-9, 9, 60_001)
    above = t >= y[:, None]
    whole = np.trapezoid((stats.norm.cdf(t, 0.3, 1.7) - above) ** 2, t, axis=1)
    np.testing.assert_allclose(crps_of_normal(0.3, 1.7, y), whole, atol=2e-4)
    values = rng.standard_normal(40)
    steps = (values[:, None] <= t).mean(0)
    whole = np.trapezoid((steps - above) ** 2, t, axis=1)
    np.testing.assert_allclose(crps_of_values(values, y), whole, atol=1e-3)
    levels = (np.arange(30) + 0.5) / 30
    quantiles = np.broadcast_to(stats.norm.ppf(levels)[:, None], (30, 5))
    exact = crps_of_normal(0.0, 1.0, y)
    np.testing.assert_allclose(crps_of_quantiles(quantiles, levels, y), exact, rtol=0.01)


def test_scores_leave_missing_values_out():
    y = np.array([[1.0, 2.0], [3.0, np.nan]])
    mean = np.zeros((2, 2))
    of = scores("a", y, mean, mean - 1, mean + 1, np.abs(y))
    assert (of.absolute.tolist(), of.covered.tolist()) == ([2.0, 2.0], [0.5, 0.0])
    assert of.over(slice(0, 2)) == {
        "crps": 2.0, "mae": 2.0, "rmse": 4.5**0.5, "coverage": 0.25, "width": 2.0
    }  # fmt: skip


def test_runs_that_differ_in_their_seed_are_put_together():
    y = np.zeros((1, 2))
    each = [
        replace(scores(str(k), y, y + k, y - 1, y + 1, y + k), kind=kind)
        for k, kind in ((1, "a"), (4, "a"), (7, "b"), (9, ""))
    ]
    mean, spread = over_seeds(each, slice(0, 2))
    assert mean["forecast"] == "2 seeds of 1, mean"
    assert (mean["crps"], mean["rmse"]) == (2.5, 2.5)
    assert spread["mae"] == pytest.approx(1.5 * 2**0.5)
    assert spread["width"] == 0


def origins(past, future):
    n = len(past)
    more, zeros = np.empty((n, 0, future.shape[1])), np.zeros(n, int)
    at = 3600 * (np.arange(n) + past.shape[1])
    return Origins(past, future, more, at, zeros, np.ones(n), 3600)


def test_the_naive_forecast_is_the_value_one_season_ago():
    past = np.arange(1.0, 9.0)[None]  # 1 .. 8
    of = origins(past, np.zeros((1, 5)))
    assert last_season(of, 3).tolist() == [[6, 7, 8, 6, 7]]
    past[0, 5] = np.nan  # the season before it
    assert last_season(of, 3).tolist() == [[3, 7, 8, 3, 7]]
    # the residuals of train are its predictive distribution
    train = origins(np.zeros((4, 2)), np.array([[-1.0], [0.0], [1.0], [4.0]]))
    test = origins(np.full((1, 2), 10.0), np.array([[12.0]]))
    found = seasonal("a", train, test, 1, 0.5)
    assert found.absolute[0] == pytest.approx(1.0)
    assert found.width[0] == pytest.approx(1.75 - -0.25)
    assert found.crps[0] == pytest.approx(crps_of_values(np.array([-1, 0, 1, 4]), np.array(2.0)))
    # a series that was divided by 3
    scaled = seasonal("a", train, replace(test, std=np.full(1, 3.0)), 1, 0.5)
    for key, power in (("crps", 1), ("absolute", 1), ("width", 1), ("square", 2), ("covered", 0)):
        assert getattr(scaled, key)[0] == pytest.approx(3**power * getattr(found, key)[0])


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """An hourly series with noise, as a set, with its values."""
    folder = tmp_path_factory.mktemp("sets")
    rng, hours = np.random.default_rng(1), np.arange(24 * 40)
    values = 100 + 30 * np.sin(hours * np.pi / 12) + 5 * rng.standard_normal(len(hours))
    rows = [f"{START + dt.timedelta(hours=int(h))},{v}" for h, v in zip(hours, values, strict=True)]
    (folder / "a.csv").write_text("\n".join(["time,load", *rows]))
    how = {"every": 12, "valid": 0.2, "test": 0.2}
    build(series([folder / "a.csv"], "time", "load", 48, 6, **how), folder / "set")
    return folder / "set", values


def test_the_series_of_a_set_is_that_of_its_file(sets):
    path, values = sets
    parts = [read_origins(path, split) for split in ("train", "valid", "test")]
    found, first = one_series(parts, 0)
    known = np.isfinite(found)
    start = (first - int((START - dt.datetime(1970, 1, 1)).total_seconds())) // 3600
    assert (start, known.mean()) == (0, pytest.approx(1, abs=0.05))
    np.testing.assert_allclose(found[known], values[: len(found)][known], rtol=1e-6)
    names = ["all", "1 h to 2 h", "3 h to 4 h", "5 h to 6 h"]
    assert list(groups_of(parts[2], 3)) == names


def test_sarima_predicts_as_statsmodels_at_each_origin(sets):
    pytest.importorskip("statsmodels", reason="hpcsamp[forecast] is not installed")
    from hpcsamp.bench.forecast import sarima

    path, _ = sets
    train, test = (read_origins(path, split) for split in ("train", "test"))
    fitted = sarima._fit(train, 0, [6, 48], 200)  # a short season is fast
    values, first = one_series([test], 0)
    clock, at = first // 3600, np.array([80, 103])
    mean, std = sarima._predict(fitted, values, clock, at, [6, 48], 6)
    for row, t in enumerate(at.tolist()):
        z = (values[: t + 1] - fitted.mean) / fitted.std
        terms = sarima._fourier(clock, t + 1 + 6, [6, 48])
        cut = fitted.results.apply(z, exog=terms[: t + 1], refit=False)
        found = cut.get_forecast(6, exog=terms[t + 1 :])
        of = found.predicted_mean * fitted.std + fitted.mean
        np.testing.assert_allclose(mean[row], of, rtol=1e-8)
        np.testing.assert_allclose(std[row], found.se_mean * fitted.std, rtol=1e-8)


def test_ets_predicts_as_statsmodels_at_each_origin(sets):
    pytest.importorskip("statsmodels", reason="hpcsamp[forecast] is not installed")
    from hpcsamp.bench.forecast.ets import fit
    from hpcsamp.bench.forecast.state_space import ahead

    train, test = (read_origins(sets[0], split) for split in ("train", "test"))
    last, begin = one_series([train], 0)
    values, first = one_series([train, test], 0)
    assert begin == first
    fitted = fit(last[:300], 24)
    at = np.array([400, 403, len(values) - 10])
    mean, std = ahead(fitted.filtered(values), at, 6)
    for row, t in enumerate(at.tolist()):
        found = fitted.filtered(values[: t + 1]).get_forecast(6)
        np.testing.assert_allclose(mean[row], found.predicted_mean, rtol=1e-8)
        np.testing.assert_allclose(std[row], found.se_mean, rtol=1e-8)
    # a series that repeats itself is known from the first value on: the season is in its order
    repeated = np.tile(100 + 5 * np.random.default_rng(0).standard_normal(6), 10)
    noise = 1e-3 * np.random.default_rng(1).standard_normal(60)
    of = fit(repeated + noise, 6)
    one_ahead = of.filtered(repeated).predict() * of.std + of.mean
    assert np.abs(one_ahead - repeated).max() < 0.05
    options = Options(baselines=("naive", "ets"), seasons=[24], steps=300)
    naive, smooth = (of.over(slice(0, 6)) for of, _ in compare(sets[0], [], options).found)
    assert smooth["crps"] < naive["crps"]


def test_boosted_quantiles_are_calibrated_and_better_than_the_naive(sets, monkeypatch):
    monkeypatch.setattr("hpcsamp.bench.forecast.boosting.LEVELS", 10)
    found = compare(sets[0], [], Options(baselines=("naive", "boosting"), seasons=[24]))
    naive, boosted = (of.over(found.groups["all"]) for of, _ in found.found)
    assert boosted["crps"] < naive["crps"]
    assert boosted["rmse"] < 7  # the noise has 5
    assert 0.5 < boosted["coverage"] < 0.97


def test_runs_are_compared_with_baselines(sets, tmp_path, hpcsamp):
    path, run = sets[0], tmp_path / "run"
    few = ["--set", "training.epochs=2", "--set", "loss.kl_warmup_epochs=1"]
    few += ["--set", "method.samples=2", "--set", "evaluation.samples=8"]
    assert hpcsamp(1, "train", "--data", path, "--output", run, "-q", *few).code == 0
    out = tmp_path / "a.json"
    done = hpcsamp(1, "bench", "forecast", path, run, "--baseline", "naive", "--json", out)
    assert done.code == 0, done.err
    rows = [row for row in json.loads(out.read_text())["rows"] if row["lead"] == "all"]
    assert [row["forecast"] for row in rows] == ["seasonal naive, 1 d", str(run)]
    assert hpcsamp(1, "evaluate", run, "-q").code == 0
    metrics = json.loads((run / "evaluation/test.json").read_text())["metrics"]
    for name, key in (("crps", "crps"), ("mae", "mae"), ("rmse", "rmse")):
        assert rows[1][name] == pytest.approx(metrics[key], rel=1e-6)
    assert rows[1]["coverage"] == pytest.approx(metrics["coverage_90"], abs=1e-9)
    done = hpcsamp(1, "bench", "forecast", path, "--baseline", "arima")
    assert (done.code, done.errors) == (2, [
        "hpcsamp: error: --baseline 'arima'; did you mean 'sarima'?; choose from naive, ets, "
        "sarima, boosting and none"
    ])  # fmt: skip


def test_what_does_not_fit_is_refused(sets):
    with pytest.raises(UsageError, match="--season 60: windows have 48 past values"):
        compare(sets[0], [], Options(seasons=[60]))
