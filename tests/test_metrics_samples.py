"""Metrics of few samples, of probabilities that are exactly 0, and of scores of any size."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import roc_auc_score

from hpcsamp.collectives import Alone
from hpcsamp.errors import DivergedError
from hpcsamp.losses import Categorical, Gaussian, Poisson
from hpcsamp.losses.mixture import AlphaDivergence, PredictiveNLL, log_mean_exp
from hpcsamp.metrics import (
    ClassificationMetrics,
    RegressionMetrics,
    auroc,
    fpr_at,
    risk_coverage,
)
from hpcsamp.metrics.mixtures import order_statistics
from hpcsamp.tasks.components import Samples
from hpcsamp.tasks.predictive import predict_values

ITEMS = 100_000


class Fixed:
    """A method whose outputs are given."""

    spread = None

    def __init__(self, outputs):
        self.outputs = outputs

    def __call__(self, x, samples, step, index):
        return self.outputs[samples.start : samples.stop]

    def prediction_share(self, samples, parts, part):
        return range(samples)

    def predicting(self):
        return torch.no_grad()


def measured(outputs, target, likelihood=None):
    """Metrics of a predictive distribution whose samples are given, ``(S, B)``."""
    likelihood = likelihood or Samples()
    p = predict_values(Fixed(outputs), target, target, len(outputs), Alone(), likelihood)
    metrics = RegressionMetrics(samples=len(outputs), alone=isinstance(likelihood, Samples))
    metrics.update(p.mean, p.aleatoric + p.epistemic, target, pit=p.pit, epistemic=p.epistemic)
    return metrics


def exchangeable(samples, seed=0):
    """Samples and targets from the same distribution, a new one for each item."""
    rng = torch.Generator().manual_seed(seed)
    both = torch.randn(samples + 1, ITEMS, generator=rng, dtype=torch.float64)
    both = 10 * torch.randn(ITEMS, generator=rng, dtype=torch.float64) + 3 * both
    return both[:-1], both[-1]


@pytest.mark.parametrize("samples", [2, 3, 8, 19, 32])
def test_a_calibrated_ensemble_is_calibrated_for_any_number_of_samples(samples):
    metrics = measured(*exchangeable(samples))
    got, bins = metrics.compute(), metrics.reliability()
    largest = (samples - 1) / (samples + 1)
    for level, inside in zip(bins["level"][:-1], bins["coverage"], strict=False):
        if level <= largest + 1e-12:
            assert inside == pytest.approx(level, abs=0.008)
        else:
            assert math.isnan(inside)
    for q in (50, 80, 90, 95):
        known = q / 100 <= largest + 1e-12
        assert (f"coverage_{q}" in got) == known
        assert (f"coverage_{q}" in metrics.by_row()) == (known and q in (50, 90))
        assert (f"coverage_{q}" in metrics.unattained()) == (not known)
    assert got["spread_skill"] == pytest.approx(1, abs=0.01)
    assert metrics.by_row()["spread_skill"] == pytest.approx([got["spread_skill"]])
    assert got["spread"] == pytest.approx(3, abs=0.03)  # unbiased
    assert bins["pit"] == pytest.approx([0.05] * 20, abs=0.005)
    assert got["mace"] < 0.006


def test_intervals_are_those_between_order_statistics():
    y, t = exchangeable(19)
    got = measured(y, t).compute()
    for k, q in ((1, 90), (2, 80), (5, 50)):  # (S + 1 - 2 k) / (S + 1)
        low, high = np.sort(y.numpy(), axis=0)[[k - 1, 19 - k]]
        inside = ((t.numpy() >= low) & (t.numpy() <= high)).mean()
        assert got[f"coverage_{q}"] == pytest.approx(inside, abs=1e-12)


@pytest.mark.parametrize("samples", [1, 2, 8, 32])
def test_a_useless_ensemble_covers_nothing(samples):
    metrics = measured(
        100 + torch.randn(samples, 50, dtype=torch.float64), torch.zeros(50).double()
    )
    got = metrics.compute()
    assert [v for k, v in got.items() if k.startswith("coverage")] == [0.0] * {32: 3, 8: 1}.get(
        samples, 0
    )
    assert "coverage_95" in metrics.unattained()
    assert ("spread_skill" in got) == (samples > 1)
    if samples > 1:
        assert got["spread_skill"] < 0.02


@pytest.mark.parametrize("samples", [2, 5])
def test_noise_counts_once_in_the_spread_skill_ratio(samples):
    y, t = exchangeable(samples, seed=1)
    rng = torch.Generator().manual_seed(9)
    noisy = t + 2 * torch.randn(ITEMS, generator=rng, dtype=torch.float64)
    metrics = measured(y, noisy, Gaussian(2.0))
    got = metrics.compute()
    assert got["spread_skill"] == pytest.approx(1, abs=0.01)
    assert got["spread"] == pytest.approx(math.sqrt(3**2 + 2**2), abs=0.03)
    assert got["spread_epistemic"] == pytest.approx(3, abs=0.03)
    assert not metrics.unattained()


def test_counts_of_the_right_rate_are_calibrated():
    rng = np.random.default_rng(0)
    rate = rng.uniform(0.1, 3, ITEMS)
    target = torch.from_numpy(rng.poisson(rate))
    metrics = measured(torch.from_numpy(rate).log()[None], target, Poisson())
    bins = metrics.reliability()
    assert bins["coverage"] == pytest.approx(bins["level"], abs=0.006)
    assert bins["pit"] == pytest.approx([0.05] * 20, abs=0.004)


def test_quantiles_of_samples_are_order_statistics():
    rng = np.random.default_rng(2)
    y, levels = rng.normal(size=(7, 11)), [0.05, 1 / 8, 0.3, 0.5, 0.875, 0.9]
    found = order_statistics(torch.from_numpy(y), torch.tensor(levels, dtype=torch.float64))
    expected = np.quantile(y, levels, axis=0, method="weibull")
    expected[[0, -1]] = np.nan  # below 1/8 and above 7/8
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)


# Probabilities that are exactly 0 -----------------------------------------------------------------


def masked(samples=3, items=40, classes=4):
    """Logits whose last class is impossible, in all samples; and another in the first one alone."""
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(samples, items, classes, generator=rng, dtype=torch.float64)
    logits[..., -1] = -math.inf
    logits[0, :, 0] = -math.inf
    return logits, torch.randint(0, classes - 1, (items,), generator=rng)


def test_an_impossible_class_has_probability_zero():
    logits, target = masked()
    log_p = torch.log_softmax(logits, -1)
    mean = log_mean_exp(log_p, len(log_p), Alone())
    p = torch.softmax(logits, -1).mean(0)
    assert torch.allclose(mean.exp(), p, rtol=1e-12)
    assert bool((mean[:, -1] == -math.inf).all())
    metrics = ClassificationMetrics(4)
    metrics.update(mean, target, aleatoric=torch.special.entr(log_p.exp()).sum(-1).mean(0))
    got, three = metrics.compute(), ClassificationMetrics(3)
    three.update(mean[:, :3], target)
    for name, value in three.compute().items():  # as if the class were not there
        assert got[name] == pytest.approx(value, rel=1e-12), name
    impossible = ClassificationMetrics(4)
    impossible.update(mean, torch.full_like(target, 3))
    assert impossible.compute()["nll"] == math.inf
    assert impossible.compute()["accuracy"] == 0


@pytest.mark.parametrize("loss", [PredictiveNLL(Categorical()), AlphaDivergence(Categorical())])
def test_losses_of_mixtures_with_an_impossible_class(loss):
    logits, target = masked()
    logits.requires_grad_()
    value = loss(logits, target, 3, Alone())
    value.sum().backward()
    p = torch.softmax(logits.detach(), -1).gather(-1, target.expand(3, -1)[..., None])[..., 0]
    alpha = loss.alpha
    truth = -(p**alpha).mean(0).log() / alpha
    assert torch.allclose(value.detach(), truth, rtol=1e-12)
    assert bool(logits.grad.isfinite().all())
    everywhere = torch.full_like(target, 3)
    assert bool((loss(logits.detach(), everywhere, 3, Alone()) == math.inf).all())


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_predictions_that_are_not_numbers_are_refused(wrong):
    logits, target = masked()
    logits[:, 5] = wrong
    metrics = ClassificationMetrics(4)
    log_p = log_mean_exp(torch.log_softmax(logits, -1), 3, Alone())
    metrics.update(log_p, target)
    with pytest.raises(DivergedError, match="predictions of 1 of 40 items"):
        metrics.compute()
    y, t = exchangeable(3)
    y[0, :7] = wrong
    with pytest.raises(DivergedError, match="predictions of 7 of 100000 items"):
        measured(y, t, Gaussian(1.0)).compute()


# Scores of any size -------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [1e-200, 1.0, 1e200])
@pytest.mark.parametrize("huge", [1e3, 1e90, math.inf])
def test_one_huge_score_leaves_the_others_in_order(factor, huge):
    rng = np.random.default_rng(0)
    inside, outside = np.exp(rng.normal(0, 2, 203)) * factor, np.exp(rng.normal(1, 2, 97)) * factor
    label = np.repeat([0, 1], [203, 97])
    outside[3] = huge * factor
    ranks = stats.rankdata(np.concatenate([inside, outside]))
    assert auroc(inside, outside) == pytest.approx(roc_auc_score(label, ranks), rel=1e-12)
    threshold = np.sort(inside)[math.ceil(0.95 * 203) - 1]
    assert fpr_at(inside, outside) == (outside <= threshold).mean()
    wrong = (rng.random(97) < 0.3).astype(float)
    curve = np.cumsum(wrong[np.argsort(outside)]) / np.arange(1, 98)
    assert risk_coverage(wrong, outside) == pytest.approx(curve, rel=1e-12)


def test_infinite_scores_tie_and_undefined_ones_are_refused():
    inf = math.inf
    assert auroc(np.array([0.0, inf]), np.array([inf, inf])) == (1 + 0.5) / 2
    assert auroc(np.array([-inf]), np.array([0.0])) == 1
    for call in (
        lambda s: auroc(s, np.ones(2)),
        lambda s: fpr_at(np.ones(2), s),
        lambda s: risk_coverage(np.ones(2), s),
    ):
        with pytest.raises(DivergedError, match="scores are NaN"):
            call(np.array([0.5, math.nan]))


def test_differences_below_the_resolution_are_ties():
    noise = 1e-16 * np.arange(10)
    assert auroc(noise[:5], noise[5:]) == 1
    assert auroc(noise[:5], noise[5:], resolution=1e-13) == 0.5
    assert auroc(noise[:5], noise[5:] + 1e-12, resolution=1e-13) == 1
    assert auroc(np.array([1e300]), np.array([1e300 * (1 + 1e-9)]), resolution=1e-13) == 1
