"""Scores of forecasts of fields with missing values: means over what is observed."""

from __future__ import annotations

import numpy as np
import pytest

from hpcsamp.metrics.forecasts import ForecastSums, item_scores, item_sums, region_weights
from hpcsamp.streams import Purpose, numpy_generator

M, N, H, W = 4, 5, 4, 6
LATITUDE = np.linspace(-60, 60, H)
AREAS = region_weights(LATITUDE, np.cos(np.deg2rad(LATITUDE)))


def fields():
    rng = numpy_generator(1, Purpose.SYNTHETIC, 7)
    members = rng.normal(280, 3, (M, N, H, W))
    observed, initial = rng.normal(280, 3, (2, N, H, W))
    return members, observed, initial, np.full((H, W), 279.0), np.full((H, W), 2.0)


def scored(members, observed, initial, mean, std):
    sums = ForecastSums(1, 1, M, W)
    sums.add(0, 0, members, observed, initial, mean, std, AREAS)
    sums.add_items(0, 0, *item_scores(item_sums(members, observed, mean, AREAS[0]), M))
    return sums.result()


def test_means_are_over_observed_points():
    members, observed, initial, mean, std = fields()
    rng = numpy_generator(1, Purpose.SYNTHETIC, 8)
    observed[:-1][rng.random((N - 1, H, W)) < 0.3] = np.nan
    observed[1] = np.nan  # an item that is not observed at all
    observed[2, 1] = 280.0  # a whole circle of latitude
    mean[0, :3] = std[0, :3] = np.nan  # never observed in training
    found = scored(members, observed, initial, mean, std)
    seen, normal = np.isfinite(observed), np.isfinite(mean)
    weight = AREAS[0][:, None] * seen

    def over(values, weight=weight):
        return np.nansum(values * weight) / weight.sum()

    centre = members.mean(0)
    of = {name: float(v[0, 0]) for name, v in found["regions"]["global"].items()}
    assert of["rmse"] == pytest.approx(np.sqrt(over((centre - observed) ** 2)), rel=1e-12)
    assert of["mae_persistence"] == pytest.approx(over(abs(initial - observed)), rel=1e-12)
    pairs = abs(members[:, None] - members[None]).sum((0, 1)) / (2 * M * (M - 1))
    crps = abs(members - observed).mean(0) - pairs
    assert of["crps_fair"] == pytest.approx(over(crps), rel=1e-12)
    known = weight * normal
    climatology = np.sqrt(over((mean - observed) ** 2, known))
    assert of["rmse_climatology"] == pytest.approx(climatology, rel=1e-12)
    brier = ((members > mean + std).mean(0) - (observed > mean + std)) ** 2
    assert of["brier"] == pytest.approx(over(brier, known), rel=1e-12)
    plain = abs(members - observed).mean(0) - pairs * (M - 1) / M
    almost = 0.95 * over(crps) + 0.05 * over(plain)
    assert of["crps_almost_fair"] == pytest.approx(almost, rel=1e-12)
    miss = observed - np.quantile(members, 0.05, axis=0)
    pinball = over(np.where(miss > 0, 0.05, -0.95) * miss)
    assert of["pinball_0.05"] == pytest.approx(pinball, rel=1e-12)
    tropics = found["regions"]["tropics"]
    inside = AREAS[1][:, None] * seen
    assert 0 < (AREAS[1] > 0).sum() < H
    bias = over(centre - observed, inside)
    assert float(tropics["bias"][0, 0]) == pytest.approx(bias, rel=1e-12)
    ranks = [over((members < observed).sum(0) == rank) for rank in range(M + 1)]
    np.testing.assert_allclose(found["rank_histogram"][0, 0], ranks, rtol=1e-12)
    number, event = (members > mean + std).sum(0), observed > mean + std
    bins = [known * (number == k) for k in range(M + 1)]
    weights, hits = ([(b * w).sum() for b in bins] for w in (1, event))
    reliability = {name: v.squeeze() for name, v in found["reliability"].items()}
    np.testing.assert_allclose(reliability["forecast"], np.arange(M + 1) / M)
    np.testing.assert_allclose(reliability["weight"], weights / known.sum(), rtol=1e-12)
    with np.errstate(invalid="ignore"):
        observed_share = np.divide(hits, weights)
    np.testing.assert_allclose(reliability["observed"], observed_share, rtol=1e-12)

    item = np.delete(np.arange(N), 1)
    square = np.asarray([over((centre - observed)[i] ** 2, weight[i]) for i in item])
    error = square.std(ddof=1) / np.sqrt(len(item))
    stated = float(found["standard_errors"]["rmse"][0, 0])
    assert stated == pytest.approx(error / (2 * np.sqrt(square.mean())), rel=1e-10)
    each = [over(crps[i], weight[i]) for i in item]
    stated = float(found["standard_errors"]["crps_fair"][0, 0])
    assert stated == pytest.approx(np.std(each, ddof=1) / np.sqrt(len(item)), rel=1e-10)
    a, o = np.where(normal, centre - mean, 0), np.where(normal & seen, observed - mean, 0)
    cross, own, other = ((weight * v)[item].sum((1, 2)) for v in (a * o, a * a, o * o))
    correlation = cross / np.sqrt(own * other)
    assert float(found["acc"][0, 0]) == pytest.approx(np.mean(correlation), rel=1e-12)
    assert found["items"][0, 0] == len(item)

    circles = seen.all(-1) * AREAS[0]
    power = np.abs(np.fft.rfft(np.where(seen, observed, 0))) ** 2 / W**2
    expected = (power * circles[..., None]).sum((0, 1)) / circles.sum()
    np.testing.assert_allclose(found["spectra"]["observed"][0, 0], expected, rtol=1e-12)


def test_nothing_observed_is_not_scored():
    members, observed, *others = fields()
    found = scored(members, np.full_like(observed, np.nan), *others)
    assert np.isnan(found["regions"]["global"]["rmse"]).all()
    assert np.isnan(found["acc"]).all()
    assert found["items"][0, 0] == 0
