"""Metrics against torchmetrics, scikit-learn and scipy; merged over ranks against one process."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score, roc_curve

from hpcsamp import vision
from hpcsamp.errors import DataError, HpcsampError
from hpcsamp.metrics import (
    DESCRIPTIONS,
    ClassificationMetrics,
    RegressionMetrics,
    auroc,
    fpr_at,
    risk_coverage,
    selective,
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
    names |= selective(risk_coverage(np.zeros(4), np.arange(4.0)))
    assert set(names) <= set(DESCRIPTIONS)
    assert "spread_epistemic" in DESCRIPTIONS
    assert "unweighted" in DESCRIPTIONS["mace"]


def scores(seed=0, ties=False):
    rng = np.random.default_rng(seed)
    inside, outside = rng.normal(0, 1, 203), rng.normal(1, 1, 97)
    return (np.round(inside, 1), np.round(outside, 1)) if ties else (inside, outside)


@pytest.mark.parametrize("ties", [False, True])
def test_telling_sets_apart_equals_sklearn(ties):
    inside, outside = scores(ties=ties)
    label = np.repeat([0, 1], [len(inside), len(outside)])
    both = np.concatenate([inside, outside])
    assert auroc(inside, outside) == pytest.approx(roc_auc_score(label, both), rel=1e-12)
    # sklearn's positive class is the outside; ours passes at 95 % of the inside
    passed_out, passed_in, _ = roc_curve(1 - label, -both, drop_intermediate=False)
    expected = passed_out[np.flatnonzero(passed_in >= 0.95)[0]]
    assert fpr_at(inside, outside) == pytest.approx(expected, abs=1e-12)


def test_scores_that_say_nothing_or_all():
    assert auroc(np.zeros(5), np.ones(3)) == 1
    assert auroc(np.ones(5), np.ones(3)) == 0.5
    assert auroc(np.ones(5), np.ones(3) + 1e-13) == 0.5  # rounding is no knowledge
    assert fpr_at(np.zeros(5), np.ones(3)) == 0
    assert fpr_at(np.ones(5), np.ones(3)) == 1
    assert math.isnan(auroc(np.zeros(0), np.ones(3)))


def test_selective_risk_by_hand():
    wrong, score = np.array([1.0, 0, 1, 0]), np.array([0.9, 0.1, 0.3, 0.5])
    curve = risk_coverage(wrong, score)  # sorted: right, wrong, right, wrong
    assert curve == pytest.approx([0, 1 / 2, 1 / 3, 1 / 2])
    assert selective(curve)["aurc"] == pytest.approx((0 + 1 / 2 + 1 / 3 + 1 / 2) / 4)
    assert selective(curve)["risk_50"] == 0.5
    # all tied: any order is as likely, so every coverage has the mean risk
    assert risk_coverage(wrong, np.ones(4)) == pytest.approx([0.5] * 4)
    # the mean over both orders of a tie of two
    tied = np.array([0.9, 0.1, 0.3, 0.3])
    orders = [risk_coverage(wrong, s) for s in (score, np.array([0.9, 0.1, 0.5, 0.3]))]
    assert risk_coverage(wrong, tied) == pytest.approx(np.mean(orders, axis=0))


def field(items=60, shape=(3, 4, 2), seed=0):
    rng = torch.Generator().manual_seed(seed)
    mean, target = (torch.randn(items, *shape, generator=rng).double() for _ in range(2))
    return mean, torch.rand(items, *shape, generator=rng).double() + 0.1, target


def test_rows_weights_and_units():
    mean, variance, target = field()
    weights = torch.tensor([1.0, 2, 3, 2]).reshape(1, 4, 1)
    scale = [2.0, 10.0, 0.5]
    metrics = RegressionMetrics(rows=3, weights=weights, scale=scale)
    metrics.update(mean, variance, target, log_density=torch.zeros(60), epistemic=variance / 4)
    error = (mean - target).numpy()
    area = np.broadcast_to((weights / weights.mean()).numpy(), error.shape)
    rows, got = metrics.by_row(), metrics.compute()
    for r in range(3):
        square = np.average(error[:, r] ** 2, weights=area[:, 0])
        assert rows["rmse"][r] == pytest.approx(scale[r] * math.sqrt(square), rel=1e-12)
        bias = np.average(error[:, r], weights=area[:, 0])
        assert rows["bias"][r] == pytest.approx(scale[r] * bias, rel=1e-9)
        spread = math.sqrt(np.average(variance[:, r].numpy(), weights=area[:, 0]))
        assert rows["spread"][r] == pytest.approx(scale[r] * spread, rel=1e-12)
        assert rows["spread_skill"][r] == pytest.approx(spread / math.sqrt(square), rel=1e-12)
    assert got["rmse"] == pytest.approx(np.sqrt(np.mean(np.square(rows["rmse"]))), rel=1e-12)
    assert got["spread_epistemic"] == pytest.approx(got["spread"] / 2, rel=1e-12)
    # the density of 2 x is half of that of x: 8 values a row
    assert got["nll_physical"] == pytest.approx(8 * math.log(2 * 10 * 0.5), rel=1e-12)
    mixed = RegressionMetrics(rows=3, weights=weights, scale=scale, mixed=True)
    mixed.update(mean, variance, target)
    assert mixed.by_row()["rmse"] == pytest.approx(rows["rmse"])
    assert mixed.compute()["rmse"] == pytest.approx(
        math.sqrt(np.average(error**2, weights=area)), rel=1e-12
    )


def test_spread_and_skill_agree_for_a_calibrated_forecast():
    rng = torch.Generator().manual_seed(3)
    std = torch.logspace(-2, 0, 40000).double()
    target = std * torch.randn(40000, generator=rng).double()
    metrics = RegressionMetrics()
    metrics.update(torch.zeros_like(std), std**2, target)
    found, got = metrics.reliability(), metrics.compute()
    filled = np.array(found["share"]) > 0.01
    assert np.allclose(*(np.array(found[k])[filled] for k in ("spread", "error")), rtol=0.12)
    assert sum(found["share"]) == pytest.approx(1)
    assert len(found["spread"]) > 20
    assert got["spread_skill"] == pytest.approx(1, abs=0.02)
    assert got["mace"] < 0.01
    assert np.allclose(found["pit"], 0.05, atol=0.005)
    # one that is twice too sure
    metrics = RegressionMetrics()
    metrics.update(torch.zeros_like(std), std**2 / 4, target)
    assert metrics.compute()["spread_skill"] == pytest.approx(0.5, abs=0.01)
    inside = 2 * stats.norm.cdf(stats.norm.ppf(0.95) / 2) - 1
    assert metrics.compute()["coverage_90"] == pytest.approx(inside, abs=0.01)
