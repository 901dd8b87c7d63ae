"""Scorecards of made-up scores: skill, comparisons, the page and refusals."""

from __future__ import annotations

import json

import numpy as np
import pytest
from test_report import pixels, run_cli, write_run

from hpcsamp.errors import UsageError
from hpcsamp.metrics.forecasts import ForecastSums, item_scores, item_sums, region_weights
from hpcsamp.report.records import read_run
from hpcsamp.report.scorecard.scores import check_comparable, read_forecast, skill
from hpcsamp.streams import Purpose, numpy_generator

M, L, N, H, W = 3, 4, 5, 4, 8
NAMES = ["2m_temperature", "geopotential@500"]


def write_scores(run, spread, **changes):
    """Scores of members around made-up fields; nothing is observed at the last lead time."""
    rng = numpy_generator(1, Purpose.SYNTHETIC, 3)
    latitude = np.linspace(-60, 60, H)
    areas = region_weights(latitude, np.cos(np.deg2rad(latitude)))
    sums = ForecastSums(L, len(NAMES), M, W)
    mean, std = np.zeros((H, W)), np.ones((H, W))
    for lead in range(L - 1):
        for v in range(len(NAMES)):
            observed, initial = rng.standard_normal((2, N, H, W))
            members = observed + spread * rng.standard_normal((M, N, H, W))
            sums.add(lead, v, members, observed, initial, mean, std, areas)
            each = item_sums(members, observed, mean, areas[0])
            sums.add_items(lead, v, *item_scores(each, M))

    def listed(found):
        if isinstance(found, dict):
            return {k: listed(v) for k, v in found.items()}
        return np.where(np.isfinite(found), np.asarray(found, object), None).tolist()

    axes = {"variables": NAMES, "units": ["K", "m2 s-2"], "lead_time": [6.0, 12.0, 18.0, 24.0],
            "lead_unit": "hours", "members": M}  # fmt: skip
    axes |= {k: v for k, v in changes.items() if k in axes}
    table = {"file": "no/such.zarr", "dataset": "no/such/set", "split": "test", "items": N,
             "dataset_uid": "a"} | {k: v for k, v in changes.items() if k not in axes}  # fmt: skip
    (run / "forecasts").mkdir(exist_ok=True)
    content = {**table, "scores": {**axes, **listed(sums.result())}}
    (run / "forecasts" / "test.json").write_text(json.dumps(content))
    return run


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs; the second has half the error of the first."""
    folder = tmp_path_factory.mktemp("scorecard")
    return [write_scores(write_run(folder / n), s) for n, s in (("a", 0.6), ("b", 0.3))]


def test_skill_is_relative_to_the_reference():
    found = skill(np.asarray([1.0, 3.0, np.nan, 1.0]), np.asarray([2.0, 2.0, 1.0, 0.0]))
    np.testing.assert_array_equal(found, [0.5, -0.5, np.nan, np.nan])


def test_skill_of_a_run_with_half_the_error(runs):
    one, two = (read_forecast(read_run(run), "test") for run in runs)
    check_comparable(one, two)
    for score in ("rmse", "crps_fair"):
        found = skill(two.of(score), one.of(score))
        np.testing.assert_allclose(found[:-1], 0.5, rtol=1e-9)
        assert np.isnan(found[-1]).all()


def test_the_page_of_two_runs_and_of_one(runs, tmp_path):
    done = run_cli(*runs, "--scorecard")
    assert done.exit_code == 0, done.output
    place = runs[1] / "scorecard"
    names = {file.stem for file in place.glob("*.png")}
    assert names == {
        "skill-rmse", "skill-crps_fair", "lead-times-1", "lead-times-2", "ranks-1", "ranks-2",
    }  # fmt: skip
    for file in place.glob("*.png"):
        pixels(file)
    html = (place / "index.html").read_text()
    assert "RMSE: b against a; test: better in 6 of 6 cells" in html
    assert "left out: maps of a: " in done.output  # the dataset is not there

    done = run_cli(runs[0], "--scorecard", "--out", tmp_path / "one", "-q")
    assert done.exit_code == 0, done.output
    assert {file.stem for file in (tmp_path / "one").glob("skill-*.png")} == {
        f"skill-{score}-{name}"
        for score in ("rmse", "crps_fair")
        for name in ("persistence", "climatology")
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"variables": NAMES[::-1]}, "variables differ: '2m_temperature' and 'geopotential@500'"),
        ({"lead_time": [6.0, 12.0, 18.0]}, "lead times in hours differ: there are 4 and 3"),
        ({"dataset_uid": "b"}, "the dataset is a and b"),
        ({"items": 7}, "number of items is 5 and 7"),
    ],
)
def test_other_forecasts_are_not_compared(runs, tmp_path, changes, message):
    other = write_scores(write_run(tmp_path / "c"), 0.3, **changes)
    one, two = (read_forecast(read_run(run), "test") for run in (runs[0], other))
    with pytest.raises(UsageError, match=message):
        check_comparable(one, two)


def test_refusals(runs, tmp_path):
    for arguments, message in (
        ([write_run(tmp_path / "bare"), "--scorecard"], "has no scores of forecasts of test"),
        ([*runs, runs[0], "--scorecard"], "compares 2 runs, not 3"),
        ([runs[0], "--scorecard", "--item", "9"], "--item 9: the forecast has 5 items"),
        ([runs[0], "--scorecard", "--lead", "5"], "--lead 5: the forecast has 4 lead times"),
        ([runs[0], "--lead", "5"], "add --scorecard"),
    ):
        assert message in str(run_cli(*arguments).exception)
