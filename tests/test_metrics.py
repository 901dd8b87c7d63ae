"""Metrics against torchmetrics, scikit-learn and scipy; merged over ranks against one process."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import brier_score_loss, log_loss

from hpcsamp.data import vision
from hpcsamp.errors import DataError, HpcsampError
from hpcsamp.prediction.metrics import (
    DESCRIPTIONS,
    ClassificationMetrics,
    RegressionMetrics,
)

CLASSES, BINS = 5, 15


@pytest.fixture(scope="module")
def torchmetrics():
    """torchmetrics, which imports torchvision, whose operators are missing beside a CPU torch."""
    vision.torchvision()
    import torchmetrics

    return torchmetrics


def predictions(items=400, samples=8, seed=0):
    """Log predictive mean (B, C), labels (B,), mean entropy of samples (B,)."""
    rng = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(items, CLASSES, generator=rng, dtype=torch.float64)
    noise = torch.randn(samples, items, CLASSES, generator=rng, dtype=torch.float64)
    p = torch.softmax(logits + noise, dim=-1)
    target = torch.multinomial(p.mean(0), 1, generator=rng)[:, 0]
    return p.mean(0).log(), target, torch.special.entr(p).sum(-1).mean(0)


def classified(log_p, target, *args, **kwargs):
    metrics = ClassificationMetrics(CLASSES, BINS)
    metrics.update(log_p, target, *args, **kwargs)
    return metrics


def test_classification_equals_torchmetrics_and_sklearn(torchmetrics):
    log_p, target, aleatoric = predictions()
    got = classified(log_p, target, aleatoric=aleatoric).compute()
    p = log_p.exp()
    functional = torchmetrics.functional.classification
    accuracy = functional.multiclass_accuracy(p, target, CLASSES, average="micro")
    ece = functional.multiclass_calibration_error(p, target, CLASSES, n_bins=BINS, norm="l1")
    assert got["accuracy"] == pytest.approx(float(accuracy), rel=1e-6)
    assert got["ece"] == pytest.approx(float(ece), rel=1e-6)
    assert got["nll"] == pytest.approx(log_loss(target, p), rel=1e-12)
    brier = brier_score_loss(target, p, labels=range(CLASSES), scale_by_half=False)
    assert got["brier"] == pytest.approx(brier, rel=1e-12)
    entropy = stats.entropy(p.numpy(), axis=1).mean()
    assert got["entropy"] == pytest.approx(entropy, rel=1e-12)
    assert got["aleatoric"] == pytest.approx(float(aleatoric.mean()), rel=1e-12)
    assert got["mutual_information"] == pytest.approx(entropy - float(aleatoric.mean()), rel=1e-9)
    assert got["items"] == 400


def test_mace_counts_every_filled_bin_alike():
    # Bin 0.9..: 3 items, confidence .95, 2 right. Bin 0.4..: 1 item, confidence .45, wrong.
    p = torch.tensor([[0.95, 0.05, 0.0]] * 3 + [[0.45, 0.30, 0.25]], dtype=torch.float64)
    metrics = ClassificationMetrics(3, 10)
    metrics.update(p.log(), torch.tensor([0, 0, 1, 1]))
    got = metrics.compute()
    gap = 0.95 - 2 / 3
    assert got["mace"] == pytest.approx((gap + 0.45) / 2, rel=1e-12)
    assert got["ece"] == pytest.approx((3 * gap + 0.45) / 4, rel=1e-12)


def test_reliability_bins():
    log_p, target, _ = predictions()
    bins = classified(log_p, target).reliability()
    p = log_p.exp().numpy()
    which = np.digitize(p.max(1), np.linspace(0, 1, BINS + 1)) - 1
    right = p.argmax(1) == target.numpy()
    assert bins["edges"] == pytest.approx(np.linspace(0, 1, BINS + 1))
    assert bins["count"] == np.bincount(which, minlength=BINS).tolist()
    for k in range(BINS):
        inside = which == k
        if inside.any():
            assert bins["confidence"][k] == pytest.approx(p.max(1)[inside].mean(), rel=1e-12)
            assert bins["accuracy"][k] == pytest.approx(right[inside].mean(), rel=1e-12)
        else:
            assert math.isnan(bins["accuracy"][k])


@pytest.mark.parametrize("parts", [1, 2, 3, 4])
def test_states_of_ranks_add_up(parts):
    log_p, target, aleatoric = predictions(items=101)
    weight = torch.ones(101)
    weight[::7] = 0
    # What padding holds must not matter, not even where it is not a number.
    log_p[weight == 0], target[weight == 0], aleatoric[weight == 0] = math.nan, -1, math.nan
    whole = classified(log_p[weight > 0], target[weight > 0], aleatoric=aleatoric[weight > 0])
    total, in_turn = ClassificationMetrics(CLASSES, BINS), ClassificationMetrics(CLASSES, BINS)
    for rows in torch.arange(101).tensor_split(parts):
        total.state += classified(log_p[rows], target[rows], weight[rows], aleatoric[rows]).state
        in_turn.update(log_p[rows], target[rows], weight[rows], aleatoric[rows])
    np.testing.assert_allclose(in_turn.state, whole.state, rtol=1e-12)
    assert total.compute() == pytest.approx(whole.compute(), rel=1e-12, abs=1e-12)
    np.testing.assert_allclose(total.state, whole.state, rtol=1e-12)
    for name in ("confidence", "accuracy", "count"):
        np.testing.assert_allclose(total.reliability()[name], whole.reliability()[name], rtol=1e-12)


def test_perfect_and_worst_predictor():
    target = torch.tensor([0, 1, 2, 3])
    sure = torch.nn.functional.one_hot(target, CLASSES).double().log()
    perfect = classified(sure, target, aleatoric=torch.zeros(4)).compute()
    zeros = dict.fromkeys(
        ("nll", "brier", "ece", "mace", "entropy", "aleatoric", "mutual_information"), 0.0
    )
    assert perfect == zeros | {"accuracy": 1.0, "items": 4.0}
    worst = classified(sure, (target + 1) % CLASSES).compute()
    assert worst["accuracy"] == 0
    assert worst["nll"] == math.inf
    assert worst["brier"] == 2
    assert worst["ece"] == worst["mace"] == 1


def test_a_single_item_in_single_precision():
    log_p = torch.tensor([[0.1, 0.2, 0.4, 0.2, 0.1]]).log()
    got = classified(log_p, torch.tensor([2])).compute()
    assert got["accuracy"] == got["items"] == 1
    assert got["nll"] == pytest.approx(-math.log(0.4), rel=1e-6)
    assert got["ece"] == got["mace"] == pytest.approx(0.6, rel=1e-6)
    assert "mutual_information" not in got


def test_a_probability_rounded_above_one_is_in_the_last_bin():
    metrics = ClassificationMetrics(2)
    metrics.update(torch.tensor([[1e-7, -20.0]]), torch.tensor([0]))
    assert metrics.reliability()["count"][-1] == 1


def test_bad_input_is_refused():
    log_p, target, _ = predictions(items=4)
    with pytest.raises(DataError, match="label 5 is out of range for 5 classes"):
        classified(log_p, torch.tensor([0, 1, 2, 5]))
    with pytest.raises(ValueError, match=r"shape \(B, 5\), got \(4, 4\)"):
        classified(log_p[:, :4], target)
    with pytest.raises(HpcsampError, match="no items"):
        classified(log_p, target, torch.zeros(4)).compute()
    with pytest.raises(ValueError, match="same shape"):
        RegressionMetrics().update(log_p, log_p, target)
    with pytest.raises(ValueError, match="multiple of 20"):
        RegressionMetrics(bins=15)


def mixture(items=300, shape=(), samples=6, noise=0.3, seed=0):
    """Moments, targets and mixture log densities of Gaussian samples."""
    rng = torch.Generator().manual_seed(seed)
    mu = torch.randn(items, *shape, generator=rng, dtype=torch.float64)
    y = mu + 0.4 * torch.randn(samples, items, *shape, generator=rng, dtype=torch.float64)
    target = mu + 0.5 * torch.randn(items, *shape, generator=rng, dtype=torch.float64)
    variance = y.var(0, unbiased=False) + noise**2
    each = stats.norm(y.numpy(), noise).logpdf(target.numpy()).reshape(samples, items, -1).sum(-1)
    log_density = torch.logsumexp(torch.as_tensor(each), 0) - math.log(samples)
    return y.mean(0), variance, target, log_density


@pytest.mark.parametrize("shape", [(), (3, 4)])
def test_regression_equals_torchmetrics_and_scipy(torchmetrics, shape):
    mean, variance, target, log_density = mixture(shape=shape)
    metrics = RegressionMetrics()
    metrics.update(mean, variance, target, log_density=log_density)
    got = metrics.compute()
    functional = torchmetrics.functional
    rmse = functional.mean_squared_error(mean, target, squared=False)
    mae = functional.mean_absolute_error(mean, target)
    assert got["rmse"] == pytest.approx(float(rmse), rel=1e-6)
    assert got["mae"] == pytest.approx(float(mae), rel=1e-6)
    assert got["nll"] == pytest.approx(-float(log_density.mean()), rel=1e-12)
    assert got["spread"] == pytest.approx(float(variance.mean().sqrt()), rel=1e-12)
    assert got["items"] == 300
    bins = metrics.reliability()
    for level in (0.05, 0.5, 0.9, 0.95):
        low, high = stats.norm(mean, variance.sqrt()).interval(level)
        inside = ((target.numpy() >= low) & (target.numpy() <= high)).mean()
        k = round(level * 20) - 1
        assert bins["level"][k] == pytest.approx(level)
        assert bins["coverage"][k] == pytest.approx(inside, rel=1e-12)
    assert got["coverage_90"] == bins["coverage"][17]
    assert got["coverage_50"] < got["coverage_90"] < got["coverage_95"] < 1
    assert bins["coverage"][-1] == pytest.approx(1)


@pytest.mark.parametrize("parts", [1, 2, 3, 4])
def test_regression_states_add_up(parts):
    mean, variance, target, log_density = mixture(items=101, shape=(2,))
    weight = torch.ones(101)
    weight[::7] = 0
    mean[weight == 0], log_density[weight == 0] = math.nan, math.nan
    keep = weight > 0
    whole, total = RegressionMetrics(), RegressionMetrics()
    whole.update(mean[keep], variance[keep], target[keep], log_density=log_density[keep])
    for rows in torch.arange(101).tensor_split(parts):
        part = RegressionMetrics()
        part.update(mean[rows], variance[rows], target[rows], weight[rows], log_density[rows])
        total.state += part.state
    assert total.compute() == pytest.approx(whole.compute(), rel=1e-12)
    np.testing.assert_allclose(total.state, whole.state, rtol=1e-12)


def test_sure_regression_predictors():
    target = torch.tensor([1.0])
    right, wrong = RegressionMetrics(), RegressionMetrics()
    right.update(target, torch.zeros(1), target)
    wrong.update(target + 1, torch.zeros(1), target)
    assert right.compute()["rmse"] == 0
    assert right.compute()["coverage_50"] == 1
    assert wrong.compute()["rmse"] == 1
    assert wrong.compute()["coverage_95"] == 0
    assert "nll" not in right.compute()


def test_every_metric_is_described():
    log_p, target, aleatoric = predictions(items=4)
    mean, variance, y, log_density = mixture(items=4)
    regression = RegressionMetrics()
    regression.update(mean, variance, y, log_density=log_density)
    names = classified(log_p, target, aleatoric=aleatoric).compute() | regression.compute()
    assert set(names) == set(DESCRIPTIONS)
    assert "unweighted" in DESCRIPTIONS["mace"]
