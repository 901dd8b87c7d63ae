"""Values that are not known and weights of items: left out, against formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hpcsamp.metrics import ClassificationMetrics, RegressionMetrics

G = np.random.default_rng(3)
N = 40
MEAN, STD = G.normal(size=(N, 3, 2)), G.uniform(0.5, 2, (N, 3, 2))
TRUTH = MEAN + STD * G.normal(size=(N, 3, 2))
KNOWN = G.uniform(size=(N, 3, 2)) < 0.7
KNOWN[4] = False
TRUTH[~KNOWN] = np.nan
WEIGHT = G.integers(0, 4, N) / 2.0


def measured(parts):
    """Metrics of values from some parts of the items, whose sums are added."""
    total = None
    for rows in parts:
        metrics = RegressionMetrics(rows=3, scale=[1.0, 2.0, 3.0])
        of = [torch.from_numpy(a[rows]) for a in (MEAN, STD**2, TRUTH, WEIGHT, KNOWN)]
        z = (TRUTH[rows] - MEAN[rows]) / STD[rows]
        density = np.nansum(-0.5 * z**2 - np.log(STD[rows]) - 0.5 * np.log(2 * np.pi), (1, 2))
        metrics.update(
            *of[:4],
            torch.from_numpy(density),
            crps=of[2] * 0 + 1.5,
            epistemic=of[1] / 2,
            known=of[4],
        )
        total = metrics if total is None else total
        if total is not metrics:
            total.state += metrics.state
    return total


def test_metrics_of_values_are_means_over_known_ones():
    metrics = measured([slice(0, 17), slice(17, N)])
    found, scale = metrics.compute(), np.asarray([1.0, 2.0, 3.0])[:, None]
    w = WEIGHT[:, None, None] * KNOWN
    error = np.where(KNOWN, MEAN - np.nan_to_num(TRUTH), 0) * scale

    def mean(values):
        return float((w * values).sum() / w.sum())

    some = (WEIGHT > 0) & KNOWN.any((1, 2))
    z = np.abs(np.where(KNOWN, (np.nan_to_num(TRUTH) - MEAN) / STD, 0))
    assert found["items"] == some.sum()
    assert found["rmse"] == pytest.approx(np.sqrt(mean(error**2)), rel=1e-12)
    assert found["mae"] == pytest.approx(mean(np.abs(error)), rel=1e-12)
    assert found["bias"] == pytest.approx(mean(error), rel=1e-12)
    assert found["crps"] == pytest.approx(
        1.5 * mean(np.broadcast_to(scale, error.shape)), rel=1e-12
    )
    assert found["spread"] == pytest.approx(np.sqrt(mean((STD * scale) ** 2)), rel=1e-12)
    assert found["coverage_90"] == pytest.approx(mean(z <= 1.6448536269514722), rel=1e-12)
    normal = np.where(KNOWN, -0.5 * z**2 - np.log(STD) - 0.5 * np.log(2 * np.pi), 0)
    nll = -(WEIGHT * normal.sum((1, 2)))[some].sum() / WEIGHT[some].sum()
    assert found["nll"] == pytest.approx(nll, rel=1e-12)
    jacobian = (WEIGHT * (KNOWN * np.log(scale)).sum((1, 2)))[some].sum() / WEIGHT[some].sum()
    assert found["nll_physical"] == pytest.approx(nll + jacobian, rel=1e-12)
    rows = (w * error**2).sum((0, 2)) / w.sum((0, 2))
    assert metrics.by_row()["rmse"] == pytest.approx(np.sqrt(rows), rel=1e-12)
    assert sum(metrics.reliability()["pit"]) == pytest.approx(1, rel=1e-12)
    assert torch.allclose(metrics.state, measured([slice(0, N)]).state, rtol=1e-12)


def test_where_all_values_are_known_nothing_changes():
    one, other = RegressionMetrics(rows=3), RegressionMetrics(rows=3)
    of = [torch.from_numpy(a) for a in (MEAN, STD**2, np.nan_to_num(TRUTH), WEIGHT)]
    one.update(*of)
    other.update(*of, known=torch.ones(N, 3, 2, dtype=torch.bool))
    assert torch.allclose(one.state, other.state, rtol=1e-14, atol=0)


def test_metrics_of_classes_count_items_and_weigh_them():
    p = torch.from_numpy(G.dirichlet(np.ones(3), N))
    y, w = torch.from_numpy(G.integers(0, 3, N)), torch.from_numpy(WEIGHT)
    y[::5] = -1
    metrics = ClassificationMetrics(3)
    metrics.update(p.log(), y, w * (y >= 0))
    keep = (y >= 0) & (w > 0)
    found = metrics.compute()
    assert found["items"] == int(keep.sum())
    right = (p.argmax(1) == y).double()
    assert found["accuracy"] == pytest.approx(
        float((w * right)[keep].sum() / w[keep].sum()), rel=1e-12
    )
