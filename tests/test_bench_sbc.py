"""Simulation-based calibration: exact posteriors pass, wrong ones do not."""

from __future__ import annotations

import json

import numpy as np
import pytest

from hpcsamp.bench.rank_histogram import Histogram, ranks
from hpcsamp.bench.sbc import (
    DESIGNS,
    ITEMS,
    METHODS,
    NOISE,
    PRIOR,
    QUANTITIES,
    USUAL,
    WEIGHTS,
    Block,
    blocks,
    design,
    draw,
    quantities,
    simulate,
    table,
)

DRAWS, FITS = 63, 400


def exact(name, y):
    """Mean and covariance of the posterior, in closed form."""
    x = design(name)
    covariance = np.linalg.inv(x.T @ x / NOISE**2 + np.eye(WEIGHTS) / PRIOR**2)
    return covariance @ x.T @ y / NOISE**2, covariance


def histograms(width):
    """Those of exact draws whose deviations from the mean are scaled."""
    truth, y = simulate(design("correlated"), FITS, 5, 0)
    mean, covariance = exact("correlated", y)
    noise = np.random.default_rng(6).standard_normal((DRAWS, WEIGHTS, FITS))
    draws = mean + width * np.linalg.cholesky(covariance) @ noise
    found = ranks(quantities(draws), quantities(truth))
    return [Histogram.of(of, DRAWS) for of in found]


def test_the_exact_posterior_passes_and_others_fail():
    for of in histograms(1.0):
        assert of.p > 0.01
        assert 0.85 < of.spread < 1.15
    for of in histograms(0.5):
        assert of.p < 1e-10
        assert of.spread > 1.5
        assert of.bars()[0] == of.bars()[-1] == "█"
    for of in histograms(2.0):
        assert of.p < 1e-10
        assert of.spread < 0.6


def test_a_histogram_counts_every_rank_once():
    found = np.repeat(np.arange(100), 3)  # 100 values of the rank in 16 bins
    of = Histogram.of(found, 99)
    assert of.counts == of.expected == [21.0] * 4 + [18.0] * 12
    assert (of.p, of.centre, of.bars()) == (1.0, 0.5, "▅" * 16)
    assert of.spread == pytest.approx(1)
    assert len(Histogram.of(found[:20], 99).counts) == 4  # 5 ranks to a bin
    assert list(ranks(np.array([[1.0], [2.0], [3.0]]), np.array([2.5]))) == [2]


def test_designs_have_the_named_correlation():
    for name, of in DESIGNS.items():
        moments = design(name).T @ design(name) / ITEMS
        assert np.allclose(moments, of + (1 - of) * np.eye(WEIGHTS))


def test_regressions_of_a_block_are_fitted_apart():
    """Laplace is exact here; a block has the posteriors of its regressions."""
    x = design("correlated")
    _, y = simulate(x, 3, 1, 0)
    found = draw(METHODS["laplace"], x, y, 4000, 1)
    mean, covariance = exact("correlated", y)
    std = np.sqrt(covariance.diagonal())[:, None]
    assert np.abs((found.mean(0) - mean) / std).max() < 0.1
    for n in range(3):
        assert np.abs(np.cov(found[..., n].T) / covariance - 1).max() < 0.15
    across = np.corrcoef(found[:, 0].T) - np.eye(3)
    assert np.abs(across).max() < 0.06


def test_particles_are_fitted_one_regression_at_a_time_from_draws_of_the_prior():
    assert "svgd" not in USUAL
    assert {of.count for of in blocks(["svgd"], 3)} == {1}
    x = design("correlated")
    _, y = simulate(x, 1, 1, 0)
    found = draw(METHODS["svgd"], x, y, DRAWS, 1)[..., 0]
    mean, covariance = exact("correlated", y)
    std = np.sqrt(covariance.diagonal())
    assert (np.abs(found.mean(0) - mean[:, 0]) / std).max() < 0.01
    assert np.abs(found.std(0) / std - 0.96).max() < 0.02  # too narrow, as the methods page says
    assert found.sum(1).std() / covariance.sum() ** 0.5 == pytest.approx(0.9, abs=0.02)


def test_blocks_hold_every_fit_once():
    made = blocks(["ivon"], 600)
    assert [(of.design, of.index, of.count) for of in made] == [
        (name, n, count) for name in DESIGNS for n, count in enumerate((250, 250, 100))
    ]


def test_bench_sbc_shares_its_fits(hpcsamp, tmp_path):
    done = hpcsamp(
        1, "bench", "sbc", "--method=laplace", "--fits=40", "--draws=15", "--seed=2",
        "--json", tmp_path / "t.json", timeout=120,
    )  # fmt: skip
    assert done.code == 0, done.err
    rows = json.loads((tmp_path / "t.json").read_text())["rows"]
    alone = {of: of.run(15, 2) for of in (Block("laplace", name, 0, 40) for name in DESIGNS)}
    assert [row["counts"] for row in rows] == [row["counts"] for row in table(alone, 15)]
    assert [row["quantity"] for row in rows] == [*QUANTITIES] * 2
    assert rows[0]["bars"] in done.out
    bad = hpcsamp(1, "bench", "sbc", "--method=laplas")
    assert bad.code == 2
    assert "'laplas'; did you mean 'laplace'?; choose from mean_field" in bad.err
