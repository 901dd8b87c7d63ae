"""Mathematics of recalibration and conformal prediction, against formulas and simulations."""

from __future__ import annotations

from decimal import ROUND_CEILING, Decimal

import numpy as np
import pytest
import torch
from scipy import special
from sklearn.isotonic import IsotonicRegression

from hpcsamp.calibration import adaptive, intervals, quantile, sets
from hpcsamp.calibration.record import Adaptive, Conformal, Recalibration
from hpcsamp.calibration.scaling import SCALINGS, Isotonic, Temperature, Vector
from hpcsamp.errors import DataError, UsageError

# The threshold -------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [0.5, 0.55, 0.7, 0.8, 0.9, 0.95, 0.99])
def test_the_rank_is_the_ceiling_of_the_decimal_product(level):
    for n in range(1, 400):
        exact = int((Decimal(str(level)) * (n + 1)).to_integral_value(ROUND_CEILING))
        assert quantile.rank(n, level) == exact
        assert (exact <= n) == (n >= quantile.smallest(level))


def test_the_threshold_is_the_score_of_this_rank():
    scores = np.random.default_rng(0).normal(size=(99, 3))
    scores[50:, 2] = np.nan
    found = quantile.threshold(scores, 0.55)
    assert found.tolist() == [np.sort(scores[:, v])[54] for v in (0, 1)] + [
        np.sort(scores[:50, 2])[quantile.rank(50, 0.55) - 1]
    ]


def test_too_few_items_are_refused_with_both_numbers():
    scores = np.zeros((18, 2))
    with pytest.raises(DataError, match=r"has 18 items .* 0\.95 needs at least 19"):
        quantile.threshold(scores, 0.95)
    with pytest.raises(DataError, match="has 0 items"):
        quantile.threshold(scores[:0], 0.9)
    quantile.threshold(np.zeros((19, 2)), 0.95)
    for wrong in (0.0, 1.0, 1.5, float("nan")):
        with pytest.raises(UsageError, match=r"--coverage .* must be between 0 and 1"):
            quantile.check_level(wrong)


@pytest.mark.parametrize("score", intervals.SCORES)
def test_the_mean_coverage_is_that_of_the_formula(score):
    """Over many calibration sets; a rank that is off by one is 10 standard errors away."""
    n, level, repeats, tests = 29, 0.8, 4000, 50
    draws = torch.from_numpy(np.random.default_rng(1).gumbel(size=(repeats, n + tests)))
    shape = draws.new_ones(n + tests)
    base = intervals.base_of(
        score, {"lower": -shape, "upper": shape, "mean": 0.3 * shape, "std": 2 * shape}
    )
    of_all = base.scores(draws)
    limit = quantile.threshold(of_all[:, :n].numpy().T, level)
    tested = intervals.Base(*(x[n:] for x in (base.lower, base.upper, base.scale)))
    inside = torch.stack(
        [tested.holds(y, q) for y, q in zip(draws[:, n:], limit.tolist(), strict=True)]
    )
    each = inside.double().mean(1).numpy()
    error = each.std() / np.sqrt(repeats)
    assert abs(each.mean() - quantile.coverage(n, level)) < 3 * error
    assert abs(each.mean() - (quantile.rank(n, level) - 1) / (n + 1)) > 8 * error


def test_an_interval_holds_what_its_score_allows():
    generator = torch.Generator().manual_seed(0)
    lower, more, y = torch.randn(3, 40, 2, generator=generator, dtype=torch.float64)
    base = intervals.Base(lower, lower + more.abs(), torch.rand(40, 2, dtype=torch.float64) + 0.1)
    scores = base.scores(y)
    for limit in (scores[3], torch.tensor([0.4, -0.2], dtype=torch.float64)):
        low, high = base.interval(limit)
        assert torch.equal(base.holds(y, limit), scores <= limit + 1e-12)
        filled = low < high
        assert torch.equal(
            base.holds(y, limit) & filled, (low <= y + 1e-12) & (y <= high + 1e-12) & filled
        )
    low, high = base.interval(-np.inf)
    assert torch.equal(low, high)
    assert low.isfinite().all()
    assert base.interval(np.inf)[1].isinf().all()


def test_a_standard_deviation_of_zero_holds_the_mean_alone():
    zero = torch.zeros(2, dtype=torch.float64)
    base = intervals.base_of("normalised", {"mean": zero + 1, "std": zero})
    assert base.scores(torch.tensor([1.0, 2.0], dtype=torch.float64)).tolist() == [0, np.inf]
    assert base.holds(torch.tensor([1.0, 2.0], dtype=torch.float64), 5.0).tolist() == [True, False]


# Sets of classes -----------------------------------------------------------------------------


def by_hand(kind, p, penalty, free):
    """Scores by their definition, class by class."""
    found = np.empty_like(p)
    for i, row in enumerate(p):
        for c in range(len(row)):
            above = [j for j in range(len(row)) if (-row[j], j) <= (-row[c], c)]
            found[i, c] = 1 - row[c] if kind == "lac" else row[above].sum()
            if kind == "raps":
                found[i, c] += penalty * max(0, len(above) - free)
    return found


@pytest.mark.parametrize("kind", sets.SCORES)
def test_scores_of_classes_are_those_of_the_definition(kind):
    p = np.random.default_rng(2).dirichlet(np.full(6, 0.4), size=30)
    p[0] = 1 / 6  # ties keep the order of the classes
    found = sets.scores(kind, torch.from_numpy(p), 0.03, 2).numpy()
    np.testing.assert_allclose(found, by_hand(kind, p, 0.03, 2), rtol=0, atol=1e-12)
    shaken = p + 1e-16 * np.random.default_rng(3).integers(-3, 4, p.shape)
    other = sets.scores(kind, torch.from_numpy(shaken), 0.03, 2).numpy()
    np.testing.assert_allclose(other, found, rtol=0, atol=1e-14)


def test_sets_hold_the_most_probable_class_and_all_below_the_threshold():
    p = torch.tensor([[0.7, 0.2, 0.1], [0.4, 0.35, 0.25]])
    scores = sets.scores("aps", p)
    assert sets.members(scores, p, 0.5).tolist() == [[True, False, False]] * 1 + [
        [True, False, False]
    ]
    assert sets.members(scores, p, 0.9).tolist() == [[True, True, False], [True, True, False]]


@pytest.mark.parametrize("kind", sets.SCORES)
def test_sets_cover_at_least_what_is_stated(kind):
    generator = np.random.default_rng(4)
    logits = generator.normal(size=(24000, 5)) * 2
    labels = (logits + generator.gumbel(size=logits.shape)).argmax(1)
    p = torch.from_numpy(special.softmax(2.0 * logits, axis=1))  # overconfident
    scores = sets.scores(kind, p, 0.05, 1)
    own = scores.numpy()[np.arange(len(labels)), labels]
    limit = float(quantile.threshold(own[:4000], 0.9))
    inside = sets.members(scores, p, limit).numpy()[np.arange(len(labels)), labels][4000:]
    assert inside.mean() > 0.9 - 3 * np.sqrt(0.09 / 4000 + 0.09 / 20000)
    assert (own[4000:] <= limit).mean() < 0.92  # without the class that always belongs to a set


# Scaling -------------------------------------------------------------------------------------


def overconfident(n=3000, factor=2.5):
    generator = np.random.default_rng(5)
    logits = generator.normal(size=(n, 4))
    labels = (logits + generator.gumbel(size=logits.shape)).argmax(1)
    return special.log_softmax(factor * logits, axis=1), labels


def test_the_temperature_that_generated_labels_is_found():
    log_p, labels = overconfident(20000)
    found = Temperature.fit(log_p, labels)
    assert found.temperature == pytest.approx(2.5, rel=0.05)

    def objective(t):
        scaled = special.log_softmax(log_p / t, axis=1)
        own = scaled[np.arange(len(labels)), labels]
        return -own.mean() + np.log(t) ** 2 / (2 * len(labels))

    best = objective(found.temperature)
    assert all(objective(found.temperature * f) > best for f in (0.999, 1.001))
    expected = special.log_softmax(log_p / found.temperature, axis=1)
    np.testing.assert_allclose(found(torch.from_numpy(log_p)).numpy(), expected, atol=1e-12)


def test_vector_scaling_is_at_its_optimum_and_no_worse_than_a_temperature():
    log_p, labels = overconfident()
    found = Vector.fit(log_p, labels)
    w = torch.tensor(found.factor, requires_grad=True, dtype=torch.float64)
    b = torch.tensor(found.offset, requires_grad=True, dtype=torch.float64)
    y = torch.from_numpy(log_p) * w + b
    fit = torch.nn.functional.cross_entropy(y, torch.from_numpy(labels))
    prior = ((w - 1).square().sum() + b.square().sum()) / (2 * len(labels))
    gradients = torch.autograd.grad(fit + prior, [w, b])
    assert max(float(g.abs().max()) for g in gradients) < 1e-12
    scaled = Temperature.fit(log_p, labels)(torch.from_numpy(log_p))
    assert fit < torch.nn.functional.nll_loss(scaled, torch.from_numpy(labels))


def test_isotonic_scaling_is_that_of_scikit_learn():
    log_p, labels = overconfident(400)
    found, p = Isotonic.fit(log_p, labels), np.exp(log_p)
    mapped = np.stack(
        [
            IsotonicRegression(y_min=1 / 800, y_max=1 - 1 / 800, out_of_bounds="clip")
            .fit(p[:, c], labels == c)
            .predict(p[:, c])
            for c in range(4)
        ],
        axis=1,
    )
    expected = mapped / mapped.sum(1, keepdims=True)
    np.testing.assert_allclose(found(torch.from_numpy(log_p)).exp(), expected, atol=1e-9)


@pytest.mark.parametrize("kind", SCALINGS)
def test_items_that_are_all_right_leave_finite_numbers(kind):
    log_p = special.log_softmax(40.0 * np.eye(3)[[0, 1, 2, 0]], axis=1)
    log_p[0, 1] = -np.inf
    found = SCALINGS[kind].fit(log_p, np.array([0, 1, 2, 0]))
    scaled = found(torch.from_numpy(log_p))
    assert not scaled.isnan().any()
    assert (scaled.argmax(1).numpy() == [0, 1, 2, 0]).all()
    # an item that is wrong does not cost thousands of nats
    assert float(found(torch.from_numpy(log_p[1:2]))[0, 0]) > -100


# Series that drift ---------------------------------------------------------------------------


def drifting(length):
    """Scores whose scale grows to eight times its first value and returns."""
    scale = np.exp(2.1 * np.sin(np.linspace(0, 2 * np.pi, length)) ** 2)
    return np.abs(np.random.default_rng(6).normal(size=length)) * scale


@pytest.mark.parametrize("lag", [1, 12])
def test_the_adaptive_form_keeps_its_rate_where_the_fixed_one_does_not(lag):
    past = np.abs(np.random.default_rng(7).normal(size=300))
    scores = drifting(6000)
    found = adaptive.thresholds(past, scores, 0.9, rate=0.03, lag=lag)
    assert abs(adaptive.covered(scores, found).mean() - 0.9) < 0.01
    assert (scores <= quantile.threshold(past, 0.9)).mean() < 0.6


def test_a_threshold_depends_on_what_was_known_alone():
    past, scores = np.arange(20.0), np.array([30.0, 1, 40, 2, 50, 3, 60.0])
    found = adaptive.thresholds(past, scores, 0.8, rate=0.1, lag=2)
    for known in range(len(scores)):
        changed = scores.copy()
        changed[known - 1 :] = -5.0  # item t - 2 is the last one that item t may depend on
        other = adaptive.thresholds(past, changed, 0.8, rate=0.1, lag=2)
        assert other[: known + 1].tolist() == found[: known + 1].tolist()
    assert found[:2].tolist() == [quantile.threshold(past, 0.8)] * 2


def test_a_value_is_known_to_all_items_that_are_predicted_later():
    """Items a day apart with leads of hours, after which one day is missing."""
    from hpcsamp.prediction.adaptive import known_before
    from hpcsamp.tasks.coordinates import Axis, Coordinates

    days = np.array([0, 1, 2, 4, 5])
    origin = {"origin": (1440.0 * days, "minutes since 1970-01-01")}
    lead = Axis("horizon", 60.0 * np.arange(1, 49), "min")
    known = known_before(Coordinates([lead], origin))
    assert known[:24].tolist() == [[0, 1, 2, 3, 4]] * 24  # one item later, not the lead time
    assert known[24:].tolist() == [[0, 0, 1, 3, 3]] * 24
    hourly = {"origin": (60.0 * np.arange(5), "minutes since 1970-01-01")}
    assert known_before(Coordinates([lead], hourly))[1].tolist() == [0, 0, 1, 2, 3]
    assert known_before(Coordinates([lead])) is None
    past, scores = np.arange(20.0), np.random.default_rng(0).standard_normal(50) * 20
    for lag in (1, 3):
        other = np.maximum(np.arange(50) + 1 - lag, 0)
        one, two = (
            adaptive.thresholds(past, scores, 0.8, rate=0.1, **how)
            for how in ({"lag": lag}, {"known": other})
        )
        assert one.tolist() == two.tolist()


def test_unknown_targets_correct_nothing():
    past = np.arange(20.0)
    found = adaptive.thresholds(past, np.full(5, np.nan), 0.8, rate=0.5)
    assert found.tolist() == [quantile.threshold(past, 0.8)] * 5


# Files ---------------------------------------------------------------------------------------


def test_what_was_fitted_survives_a_file():
    log_p, labels = overconfident(60)
    for kind in SCALINGS.values():
        scaling = kind.fit(log_p, labels)
        past = np.array([[0.1, np.nan], [0.2, 0.3]])
        limits = np.array([1 / 3, 0.7])
        of = Conformal("cqr", 0.9, 19, 0.9, limits, adaptive=Adaptive(0.02, np.array([1, 2]), past))
        read = Recalibration.read(Recalibration(scaling, of).table())
        assert read.scaling == scaling
        assert read.conformal is not None
        assert read.conformal.threshold.tolist() == limits.tolist()
        assert read.conformal.adaptive is not None
        np.testing.assert_array_equal(read.conformal.adaptive.past, past)


def test_the_benchmark_observes_the_stated_coverage():
    from hpcsamp.bench.conformal import diabetes, drift

    for of in diabetes(0.9):
        assert of.stated == 91 / 101
        assert abs(of.mean - of.stated) < 2 * of.error
        assert of.error < 0.01
    kept, fixed = drift(0.9, 0.02)
    assert abs(kept.mean - 0.9) < 0.01
    assert fixed.mean < 0.7
