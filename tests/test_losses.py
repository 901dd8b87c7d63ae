"""Losses against formulas and against torch_blue, scipy and torchmetrics."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn
from torch.nn import functional as F  # noqa: N812

from hpcsamp import losses as L  # noqa: N812
from hpcsamp.collectives import Alone
from hpcsamp.errors import UsageError

S, B, C = 5, 7, 4


def stream(seed):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed):
    return torch.randn(*shape, generator=stream(seed), dtype=torch.float64)


LOGITS = 3 * normal(S, B, C, seed=0)
LABELS = torch.randint(0, C, (B,), generator=stream(1))
Y, T = normal(S, B, 2, 3, seed=2), normal(B, 2, 3, seed=3)


def value(loss, outputs, target, mask=None):
    return loss(outputs, target, len(outputs), Alone(), mask)


# Densities --------------------------------------------------------------------------------------


def test_expected_nll_is_the_mean_cross_entropy():
    expected = torch.stack([F.cross_entropy(y, LABELS, reduction="none") for y in LOGITS]).mean(0)
    assert torch.allclose(value(L.ExpectedNLL(L.Categorical()), LOGITS, LABELS), expected)


def densities():
    raw = normal(S, B, 2, 3, seed=4)
    std = np.logaddexp(0, raw.numpy()) + 0.01
    counts = torch.poisson(torch.full_like(T, 3.0), generator=stream(5))
    return {
        "gaussian": (L.Gaussian(0.3), Y, T, stats.norm.logpdf(T.numpy(), Y.numpy(), 0.3)),
        "predicted": (
            L.PredictedGaussian(0.01),
            torch.cat([Y.flatten(2), raw.flatten(2)], 2),
            T,
            stats.norm.logpdf(T.numpy(), Y.numpy(), std),
        ),
        "poisson": (L.Poisson(), Y, counts, stats.poisson.logpmf(counts.numpy(), Y.exp().numpy())),
        "student_t": (L.StudentT(3.5, 0.4), Y, T, stats.t.logpdf(T.numpy(), 3.5, Y.numpy(), 0.4)),
    }


@pytest.mark.parametrize("name", densities())
def test_densities_are_scipys_and_so_are_the_losses_of_them(name):
    likelihood, outputs, target, each = densities()[name]
    each = torch.as_tensor(each)
    assert torch.allclose(likelihood.of_values(outputs, target), each, rtol=1e-12)
    joint = each.flatten(2).sum(-1)
    assert torch.allclose(likelihood.log_prob(outputs, target), joint, rtol=1e-12)
    expected = value(L.ExpectedNLL(likelihood), outputs, target)
    assert torch.allclose(expected, -joint.mean(0), rtol=1e-12)
    mixture = math.log(S) - torch.logsumexp(joint, 0)
    assert torch.allclose(value(L.PredictiveNLL(likelihood), outputs, target), mixture, rtol=1e-12)
    for alpha in (-0.5, 0.5, 2.0):
        energy = -(torch.logsumexp(alpha * joint, 0) - math.log(S)) / alpha
        got = value(L.AlphaDivergence(likelihood, alpha), outputs, target)
        assert torch.allclose(got, energy, rtol=1e-12)
    small = value(L.AlphaDivergence(likelihood, 1e-7), outputs, target)
    assert torch.allclose(small, expected, rtol=1e-4)  # its limit
    if name == "predicted":
        got = value(L.GaussianMixtureNLL(likelihood), outputs, target)
        assert torch.equal(got, value(L.PredictiveNLL(likelihood), outputs, target))


@pytest.mark.parametrize("name", densities())
def test_moments_of_an_observation_are_scipys(name):
    likelihood, outputs, target, _ = densities()[name]
    frozen = {
        "gaussian": lambda: stats.norm(Y.numpy(), 0.3),
        "predicted": lambda: stats.norm(
            *(m.numpy() for m in likelihood.mean_and_std(outputs, target))
        ),
        "poisson": lambda: stats.poisson(Y.exp().numpy()),
        "student_t": lambda: stats.t(3.5, Y.numpy(), 0.4),
    }[name]()
    mean, variance = likelihood.moments(outputs, target)
    assert torch.allclose(mean, torch.as_tensor(frozen.mean()))
    assert torch.allclose(variance, torch.as_tensor(frozen.var()))
    with pytest.raises(UsageError, match="no mean and variance"):
        L.Categorical().moments(LOGITS, LABELS)


def test_predictive_nll_is_torch_blues():
    from torch_blue.vi.distributions import Categorical as Blue

    got = value(L.PredictiveNLL(L.Categorical()), LOGITS, LABELS)
    p = LOGITS.softmax(-1).mean(0)
    assert torch.allclose(got, -p.gather(-1, LABELS[:, None])[:, 0].log())
    assert torch.allclose(got, -Blue(eps=0.0).log_prob_from_samples(LABELS, LOGITS), rtol=1e-12)


def test_gaussian_moments_are_torch_blues():
    from torch_blue.vi.distributions import MeanFieldNormal
    from torch_blue.vi.utils import use_norm_constants

    for samples in (2, 5):
        y = Y[:samples].clone().requires_grad_()
        use_norm_constants(True)
        try:
            theirs = -MeanFieldNormal().log_prob_from_samples(T, y).flatten(1).sum(1)
        finally:
            use_norm_constants(False)
        (want,) = torch.autograd.grad(theirs.sum(), y)
        ours = value(L.GaussianMomentsNLL(), y, T)
        (got,) = torch.autograd.grad(ours.sum(), y)
        assert torch.allclose(ours, theirs, rtol=1e-12)
        assert torch.allclose(got, want, rtol=1e-10)


def test_beta_nll_weighs_each_gradient_by_its_predicted_variance():
    outputs = torch.cat([Y.flatten(2), normal(S, B, 6, seed=6)], 2)
    likelihood = L.PredictedGaussian()
    plain = value(L.ExpectedNLL(likelihood), outputs, T)
    assert torch.equal(value(L.BetaNLL(beta=0.0), outputs, T), plain)
    outputs.requires_grad_()
    mean, std = likelihood.mean_and_std(outputs, T)
    for beta in (0.5, 1.0):
        (got,) = torch.autograd.grad(value(L.BetaNLL(beta=beta), outputs, T).sum(), outputs)
        # Seitzer et al. 2022, eq. 5: (mu - t) / sigma^(2 - 2 beta)
        want = ((mean - T) / std ** (2 - 2 * beta) / S).flatten(2)
        assert torch.allclose(got[..., :6], want, rtol=1e-10)
        # eq. 6 by sigma: (1 - (mu - t)^2 / sigma^2) / sigma^(1 - 2 beta), times softplus'
        by_std = (1 - ((mean - T) / std) ** 2) / std ** (1 - 2 * beta) / S
        want = by_std.flatten(2) * outputs[..., 6:].sigmoid()
        assert torch.allclose(got[..., 6:], want, rtol=1e-10)


# Scores -----------------------------------------------------------------------------------------


def test_mean_mse():
    assert torch.allclose(value(L.MeanMSE(), Y, T), ((Y.mean(0) - T) ** 2).mean((1, 2)))


def double_sum(y, t, fair, alpha=1.0):
    """CRPS by all pairs, like properscoring's brute-force version (alpha: Lang et al. 2024)."""
    s = len(y)
    if alpha != 1:
        return alpha * double_sum(y, t, True) + (1 - alpha) * double_sum(y, t, False)
    apart = (y[:, None] - y[None]).abs().sum((0, 1)) / (2 * (s * (s - 1) if fair else s * s))
    return (y - t).abs().mean(0) - apart


@pytest.mark.parametrize("samples", [1, 2, 5])
def test_crps_is_the_double_sum(samples):
    y = Y[:samples].clone().requires_grad_()
    for fair, alpha in ((True, 1.0), (True, 0.95), (False, 1.0)):
        if samples == 1:
            want = (y - T).abs().mean((0, 2, 3))
        else:
            want = double_sum(y, T, fair, alpha).mean((1, 2))
        got = value(L.CRPS(fair, alpha), y, T)
        assert torch.allclose(got, want, rtol=1e-12)
        gradients = [torch.autograd.grad(v.sum(), y)[0] for v in (got, want)]
        assert torch.allclose(*gradients, rtol=1e-12, atol=1e-14)


def test_almost_fair_scores_lie_between_and_see_a_single_sample_far_away():
    for kind in (L.CRPS, L.EnergyScore):
        fair, almost, plain = (
            value(loss, Y, T) for loss in (kind(), kind(alpha=0.95), kind(False))
        )
        assert torch.allclose(almost, 0.95 * fair + 0.05 * plain, rtol=1e-12)
        assert torch.allclose(value(kind(alpha=0.0), Y, T), plain, rtol=1e-14)
        one_off = T.expand(4, *T.shape).clone()
        one_off[0] += 3.0
        assert value(kind(), one_off, T).abs().max() < 1e-14  # as good as all four at the target
        away = 3.0 if kind is L.CRPS else 3.0 * math.sqrt(T[0].numel())
        seen = value(kind(alpha=0.95), one_off, T)
        assert torch.allclose(seen, torch.full_like(seen, 0.05 * away / 4**2), rtol=1e-10)


def test_plain_crps_is_torchmetrics():
    from hpcsamp.vision import torchvision

    torchvision()  # which torchmetrics imports
    from torchmetrics.functional.regression import continuous_ranked_probability_score as theirs

    got = value(L.CRPS(fair=False), Y, T).mean()
    assert torch.allclose(got, theirs(Y.flatten(1).T, T.flatten()), rtol=1e-12)


def test_crps_of_many_samples_is_that_of_the_normal():
    """Gneiting et al. 2005, eq. 5."""
    quantiles = torch.as_tensor(stats.norm.ppf((np.arange(4000) + 0.5) / 4000))[:, None]
    for t in (-0.7, 0.0, 2.0):
        z = stats.norm
        want = t * (2 * z.cdf(t) - 1) + 2 * z.pdf(t) - 1 / math.sqrt(math.pi)
        got = value(L.CRPS(fair=False), quantiles, torch.tensor([t]).double())
        assert got.item() == pytest.approx(want, abs=1e-4)


def test_fair_scores_do_not_depend_on_the_number_of_samples_on_average():
    g = stream(9)
    t = torch.randn(40_000, 1, generator=g)
    for loss in (L.CRPS(), L.EnergyScore()):
        means = [value(loss, torch.randn(s, 40_000, 1, generator=g), t).mean() for s in (2, 8)]
        assert abs(means[0] - means[1]) < 0.01  # three standard errors
    plain = [value(L.CRPS(fair=False), torch.randn(s, 40_000, 1, generator=g), t).mean()
             for s in (2, 8)]  # fmt: skip
    assert plain[0] - plain[1] > 0.15


@pytest.mark.parametrize("fair", [True, False])
def test_energy_score_is_the_double_sum_and_the_crps_of_single_values(fair):
    y = Y.clone().requires_grad_()
    flat, t = y.flatten(2), T.flatten(1)
    pairs = S * (S - 1) if fair else S * S
    apart = sum(torch.linalg.vector_norm(flat[a] - flat[b], dim=-1)
                for a in range(S) for b in range(S)) / (2 * pairs)  # fmt: skip
    want = torch.linalg.vector_norm(flat - t, dim=-1).mean(0) - apart
    got = value(L.EnergyScore(fair), y, T)
    assert torch.allclose(got, want, rtol=1e-12)
    gradients = [torch.autograd.grad(v.sum(), y)[0] for v in (got, want)]
    assert torch.allclose(*gradients, rtol=1e-12, atol=1e-14)
    one, target = Y[..., 0, 0], T[..., 0, 0]
    assert torch.allclose(value(L.EnergyScore(fair), one, target),
                          value(L.CRPS(fair), one, target), rtol=1e-12)  # fmt: skip


def test_equal_samples_have_no_distance_and_a_finite_gradient():
    y = torch.ones(4, 2, 3).double().requires_grad_()
    t = torch.zeros(2, 3).double()
    for loss, want in ((L.CRPS(), 1.0), (L.EnergyScore(), math.sqrt(3))):
        got = value(loss, y, t)
        assert torch.allclose(got, torch.full((2,), want).double())
        (gradient,) = torch.autograd.grad(got.sum(), y)
        assert torch.isfinite(gradient).all()


# Importance weights -----------------------------------------------------------------------------


def test_importance_weighted_elbo_by_hand_and_its_bounds():
    """log mean weight; S = 1 is the ELBO; it lies between the ELBO and the evidence."""
    from torch.distributions import Normal

    from hpcsamp.methods import MeanField

    n, noise, zero = 5, 0.6, torch.zeros(()).double()
    x, y = normal(n, 2, seed=7), normal(n, 1, seed=8)
    line = nn.Linear(2, 1, bias=False).double()
    nn.init.constant_(line.weight, 0.3)
    method = MeanField(line, prior_std=0.9, initial_std=0.4)
    likelihood = L.Gaussian(noise)
    weighted = L.ELBO(L.ImportanceWeightedELBO(likelihood), n)

    def log_weight(s, step):
        w = method.draw(step, range(s, s + 1))[0]
        log_lik = Normal(x @ w[:, None], noise).log_prob(y).sum()
        q = Normal(method.mean, method.log_std.exp()).log_prob(w).sum()
        return log_lik + Normal(zero, 0.9 + zero).log_prob(w).sum() - q

    for samples in (1, 4):
        logs = torch.stack([log_weight(s, 3) for s in range(samples)])
        want = -(torch.logsumexp(logs, 0) - math.log(samples)) / n
        wanted = torch.autograd.grad(want, list(method.parameters()))
        for memory in ("keep", "recompute"):
            weighted.memory = memory
            got = weighted(method, x, y, samples=samples, step=3)
            assert got.item() == pytest.approx(want.item(), rel=1e-12)
            assert weighted.parts.data == pytest.approx(want.item(), rel=1e-12)
            gradient = torch.autograd.grad(got, list(method.parameters()))
            for a, b in zip(gradient, wanted, strict=True):
                assert torch.allclose(a, b, rtol=1e-10)
    covariance = 0.81 * x @ x.T + noise**2 * torch.eye(n)
    evidence = torch.distributions.MultivariateNormal(torch.zeros(n).double(), covariance)
    truth = -evidence.log_prob(y[:, 0]).item() / n
    with torch.no_grad():
        many = weighted(method, x, y, samples=3000, step=0).item()
        elbo = L.ELBO(L.ExpectedNLL(likelihood), n)(method, x, y, samples=3000, step=0).item()
    assert elbo > many + 0.02
    assert many == pytest.approx(truth, abs=0.02)


def test_methods_without_a_density_say_so():
    from hpcsamp.methods import Method

    class Bare(Method):
        def forward(self, x, samples, step=None, *, stacked=False, index=None):
            return x[None].expand(len(samples), *x.shape)

        def penalty(self, part=0, parts=1):
            return torch.zeros(())

        def named_variational(self):
            yield from ()

    for loss, kl in ((L.ImportanceWeightedELBO(L.Gaussian()), "analytic"),
                     (L.ExpectedNLL(L.Gaussian()), "monte_carlo")):  # fmt: skip
        with pytest.raises(UsageError, match="draws of Bare have no density"):
            L.ELBO(loss, 7, kl=kl)(Bare(1), T, T, samples=2)
    assert L.kl_by_layer(Bare(1)) == []


# Conditioning -----------------------------------------------------------------------------------


def test_extreme_logits_stay_finite_and_right():
    wild = torch.tensor([[[1e4, -1e4]], [[-1e4, 1e4]]])
    for target in (0, 1):
        t = torch.tensor([target])
        half = value(L.PredictiveNLL(L.Categorical()), wild, t)
        assert half.item() == pytest.approx(math.log(2), rel=1e-6)
        assert value(L.ExpectedNLL(L.Categorical()), wild, t).item() == pytest.approx(1e4)
        alpha = value(L.AlphaDivergence(L.Categorical(), 0.5), wild, t)
        assert alpha.item() == pytest.approx(2 * math.log(2), rel=1e-6)
        joint = value(L.ImportanceWeightedELBO(L.Categorical()), wild, t)
        assert joint.item() == pytest.approx(math.log(2), rel=1e-6)
        y = wild.clone().requires_grad_()
        value(L.PredictiveNLL(L.Categorical()), y, t).sum().backward()
        assert torch.isfinite(y.grad).all()


def test_small_spreads_around_large_means():
    """Mean 300, std 1e-3 in float32: the std and its gradient, and the scores."""
    g = stream(10)
    y = (300 + 1e-3 * torch.randn(16, 500, generator=g, dtype=torch.float64)).float()
    t = (300 + 1e-3 * torch.randn(500, generator=g, dtype=torch.float64)).float()
    _, _, square = L.centred_moments(y, 16, Alone())
    std, truth = (square / 15).sqrt().double(), y.double().std(0)
    assert ((std - truth).abs() / truth).max() < 1e-3
    naive = ((y**2).mean(0) - y.mean(0) ** 2).clamp(min=0).sqrt()
    assert ((naive - truth).abs() / truth).median() > 0.5  # what this is about
    for loss in (L.GaussianMomentsNLL(), L.CRPS(), L.EnergyScore(), L.MeanMSE()):
        single, double = (x.clone().requires_grad_() for x in (y, y.double()))
        a, b = value(loss, single, t), value(loss, double, t.double())
        assert (a - b).norm() / b.norm() < 1e-3, type(loss)
        a.sum().backward()
        b.sum().backward()
        assert (single.grad - double.grad).norm() / double.grad.norm() < 1e-3, type(loss)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_statistics_of_half_precision_outputs_are_single(dtype):
    y, t = Y.to(dtype), T.float()
    logits = LOGITS.to(dtype)
    densities = (L.PredictiveNLL(L.StudentT()), L.ImportanceWeightedELBO(L.Gaussian()))
    for loss in (L.MeanMSE(), L.GaussianMomentsNLL(), L.CRPS(), L.EnergyScore(), *densities):
        got = value(loss, y, t)
        assert got.dtype == torch.float32
        assert torch.allclose(got, value(loss, y.float(), t), rtol=1e-6)
    assert value(L.PredictiveNLL(L.Categorical()), logits, LABELS).dtype == torch.float32
    y.requires_grad_()
    value(L.CRPS(), y, t).sum().backward()
    assert y.grad.dtype == dtype


# Weights ----------------------------------------------------------------------------------------

WEIGHTED = [
    L.ExpectedNLL, L.PredictiveNLL, L.AlphaDivergence, L.ImportanceWeightedELBO, L.MeanMSE,
    L.GaussianMomentsNLL, L.CRPS, L.EnergyScore, L.BetaNLL, L.GaussianMixtureNLL,
]  # fmt: skip


def build(kind, **options):
    takes = (L.ExpectedNLL, L.PredictiveNLL, L.AlphaDivergence, L.ImportanceWeightedELBO)
    plain = kind in takes and not issubclass(kind, L.GaussianMixtureNLL)
    return kind(L.StudentT(), **options) if plain else kind(**options)


@pytest.mark.parametrize("kind", WEIGHTED)
def test_masked_values_count_for_nothing_whatever_they_hold(kind):
    loss = build(kind)
    predicted = kind in (L.BetaNLL, L.GaussianMixtureNLL)
    y = torch.cat([Y.flatten(2), Y.flatten(2).roll(1, 0)], 2) if predicted else Y
    mask = torch.ones_like(T)
    mask[:, 1, 2] = 0
    holes = T.clone()
    holes[:, 1, 2] = math.nan
    for m in (mask, mask > 0):
        a = y.clone().requires_grad_()
        got = value(loss, a, holes, m)
        got.sum().backward()
        # without that value
        keep = [i for i in range(6) if i != 5]
        cut = y.reshape(S, B, -1, 6)[..., keep].flatten(2)
        want = value(loss, cut, T.flatten(1)[:, keep])
        scale = 5 / 6 if kind in (L.MeanMSE, L.CRPS) else 1  # a mean over all values
        assert torch.allclose(got, want * scale, rtol=1e-12)
        assert torch.isfinite(a.grad).all()
        assert (a.grad.reshape(S, B, -1, 6)[..., 5] == 0).all()


@pytest.mark.parametrize("kind", WEIGHTED)
def test_weights_of_values(kind):
    """A weight of 2 equals the value counted twice (of half the weight in a mean)."""
    predicted = kind in (L.BetaNLL, L.GaussianMixtureNLL)
    y = torch.cat([Y.flatten(2), Y.flatten(2).roll(1, 0)], 2) if predicted else Y
    weights = torch.tensor([[1.0], [2.0]]).double()
    got = value(build(kind, weights=weights), y, T)
    twice = [0, 1, 2, 3, 4, 5, 3, 4, 5]
    repeated = y.reshape(S, B, -1, 6)[..., twice].flatten(2)
    want = value(build(kind), repeated, T.flatten(1)[:, twice])
    scale = 9 / 6 if kind in (L.MeanMSE, L.CRPS) else 1
    assert torch.allclose(got, want * scale, rtol=1e-12)


def test_latitude_weights_are_areas():
    degrees = np.linspace(-88.5, 88.5, 60)
    weights = L.latitude_weights(degrees.tolist())
    assert weights.shape == (60, 1)
    assert weights.mean().item() == pytest.approx(1)
    edges = np.sin(np.radians(np.linspace(-90, 90, 61)))
    area = np.diff(edges) / np.diff(edges).mean()
    assert np.allclose(weights[:, 0], area, rtol=1e-3)
    assert L.latitude_weights([-90.0, 0.0, 90.0])[:, 0].tolist() == pytest.approx([0, 3, 0])
    with pytest.raises(UsageError, match=r"latitudes\[1\] = 91"):
        L.latitude_weights([0, 91])
    with pytest.raises(UsageError, match="no row has an area"):
        L.latitude_weights([90.0])


def test_shapes_that_do_not_fit_are_named():
    t = torch.zeros(B, 5)
    with pytest.raises(UsageError, match=r"shape \(2, 3\) per item.*shape \(5,\)"):
        value(L.CRPS(), Y, t)
    with pytest.raises(UsageError, match=r"items: 7 and 6"):
        value(L.MeanMSE(), Y, T[:6])
    with pytest.raises(UsageError, match="2 are needed for each value"):
        value(L.GaussianMixtureNLL(), Y, T)
    with pytest.raises(UsageError, match=r"targets of shape \(7,\), got \(7, 1\)"):
        value(L.PredictiveNLL(L.Categorical()), LOGITS, LABELS[:, None])
    with pytest.raises(UsageError, match=r"mask of shape \(7,\) has 1 axes"):
        value(L.CRPS(), Y, T, torch.ones(B))
    with pytest.raises(UsageError, match=r"mask of shape \(7, 2, 2\) do not fit"):
        value(L.CRPS(), Y, T, torch.ones(B, 2, 2))
    with pytest.raises(UsageError, match=r"values of shape \(4, 1\) do not fit values \(2, 3\)"):
        value(L.CRPS(weights=torch.ones(4, 1)), Y, T)
    with pytest.raises(UsageError, match="cannot apply weights or masks to values"):
        value(L.Custom(lambda y, t: y.mean((0, 2, 3))), Y, T, torch.ones_like(T))

    def total(y, t):
        return y.sum()

    with pytest.raises(UsageError, match=r"shape \(7,\); total returned \(\)"):
        value(L.Custom(total), Y, T)

    class PerItem(L.StatisticsLoss):
        def statistics(self, outputs, target):
            return outputs

        def from_mean(self, mean, target, samples):
            return mean.sum((1, 2))

    assert value(PerItem(), Y, T).shape == (B,)
    with pytest.raises(UsageError, match="one number per item"):
        value(PerItem(), Y, T, torch.ones_like(T))


# Names and words --------------------------------------------------------------------------------


def tables(given):
    """Arguments of [loss] and [likelihood], from those with and without "likelihood." before."""
    split = [(k.rpartition("."), v) for k, v in given.items()]
    return [{k: v for (table, _, k), v in split if table == t} for t in ("", "likelihood")]


def test_every_loss_can_be_made_by_name():
    for name, kind in L.LOSSES.items():
        assert type(L.make(name, "regression")) is kind
    crps = L.make("crps", "regression", {"fair": False, "latitudes": [0.0, 60.0]})
    assert not crps.fair
    assert crps.weights[:, 0].tolist() == pytest.approx([4 / 3, 2 / 3])
    student = L.make(
        "alpha_divergence", "regression", {"alpha": 0.3}, {"name": "student_t", "df": 3.0}
    )
    assert (student.alpha, student.likelihood.df) == (0.3, 3.0)
    own = L.make("loss_cases:CubedBias", "regression")
    assert type(own).__name__ == "CubedBias"


def test_evaluation_finds_the_likelihood_beside_the_loss():
    def of(loss, arguments, **likelihood):
        return L.make_likelihood("regression", loss, arguments, likelihood)

    assert of("alpha_divergence", {"alpha": 0.3}, name="student_t", df=3.0).df == 3.0
    assert of("crps", {"fair": False}, std=0.2).std == 0.2
    assert of("expected_nll", {}, std=0.2).std == 0.2
    predicted = of("beta_nll", {"beta": 0.5}, floor=0.1)
    assert (predicted.parameters, predicted.floor) == (2, 0.1)
    assert type(L.make_likelihood("classification")) is L.Categorical


class Mine(L.CRPS):
    pass


class Open(L.LinearLoss):
    """A loss without a noise model, whose argument has no annotation."""

    def __init__(self, root=False, power=2, **others):
        super().__init__(**others)
        self.root, self.power = root, power

    def per_sample(self, outputs, target, weight=None):
        return (outputs - target).abs().flatten(2).sum(-1) ** self.power


class Taken(L.CRPS):
    def __init__(self, kl=1, **others):
        super().__init__(**others)


class Wide(L.GaussianMomentsNLL):
    pass


@pytest.mark.parametrize(
    ("name", "arguments", "kind", "source"),
    [
        ("crps", {}, L.Samples, "none: the samples are the distribution"),
        ("test_losses:Mine", {"fair": False}, L.Samples, "none: the samples are the distribution"),
        ("test_losses:Open", {}, L.Samples, "none: .*, as Open has no likelihood"),
        ("loss_cases:CubedBias", {}, L.Samples, "none: .*, as CubedBias has no likelihood"),
        ("mean_mse", {}, L.FittedGaussian, "to be estimated"),
        ("test_losses:Wide", {}, L.Samples, "none"),
        ("test_losses:Wide", {"noise": 0.3}, L.Gaussian, "fixed"),
        ("test_losses:Mine", {"likelihood.std": 0.3}, L.Gaussian, "fixed"),
        (
            "energy_score",
            {"likelihood.name": "student_t"},
            L.StudentT,
            "the likelihood of the loss",
        ),
        ("gaussian_mixture_nll", {}, L.PredictedGaussian, "predicted by the network"),
    ],
)
def test_what_a_loss_says_of_noise_is_inherited(name, arguments, kind, source):
    found = L.make_likelihood("regression", name, *tables(arguments))
    assert type(found) is kind
    assert re.match(source, found.source)
    if isinstance(found, L.Gaussian) and found.source == "fixed":
        assert found.std == 0.3


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("crps", {"fair": "no"}, "loss.fair = 'no': true or false is needed"),
        ("crps", {"fair": 1}, "loss.fair = 1: true or false is needed"),
        ("crps", {"fair": [False]}, "loss.fair = .*valid boolean"),
        ("test_losses:Mine", {"fair": "no"}, "loss.fair = 'no': true or false is needed"),
        ("test_losses:Open", {"root": "no"}, "loss.root = 'no': true or false is needed"),
        ("test_losses:Open", {"power": True}, "loss.power = True: a number is needed"),
        ("expected_nll", {"likelihood.std": True}, "likelihood.std = True: a number is needed"),
        ("expected_nll", {"likelihood.std": "0.3"}, "likelihood.std = '0.3': a number is needed"),
        ("expected_nll", {"likelihood.std": float("nan")}, "likelihood.std = nan: a finite number"),
        ("expected_nll", {"likelihood.std": float("inf")}, "likelihood.std = inf: a finite number"),
        ("expected_nll", {"likelihood.std": -0.3}, "std .* got -0.3"),
        ("expected_nll", {"likelihood.std": {"value": 0.3}}, "likelihood.std = .*valid number"),
        (
            "expected_nll",
            {"likelihood.name": ["gaussian"]},
            "likelihood.name = .*: choose from categorical",
        ),
        ("beta_nll", {"beta": "0.5"}, "loss.beta = '0.5': a number is needed"),
        ("crps", {"latitudes": [True, 2]}, "latitudes = .* must be a list of degrees"),
    ],
)
def test_arguments_of_another_type_are_refused(name, arguments, words):
    with pytest.raises(UsageError, match=words):
        L.make(name, "regression", *tables(arguments))


def test_integers_are_numbers():
    assert L.make("expected_nll", "regression", {}, {"std": 2}).likelihood.std == 2
    assert L.make("test_losses:Open", "regression", {"power": 0.5}).power == 0.5


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("expected_nl", {}, "did you mean 'expected_nll'"),
        ("expected_nll", {"likelihood.name": "gauss"}, "did you mean 'gaussian'"),
        (
            "expected_nll",
            {"likelihood.name": "gaussian", "likelihood.sd": 1},
            "'likelihood.sd' for gaussian; did you mean 'std'",
        ),
        ("expected_nll", {"likelihood.name": "gaussian", "likelihood.std": 0}, "got 0"),
        ("expected_nll", {"std": 1}, "'loss.std' for expected_nll; it is .* likelihood.std"),
        (
            "expected_nll",
            {"exakt": False},
            "'loss.exakt' for expected_nll; did you mean 'loss.exact'",
        ),
        ("test_losses:Taken", {}, "Taken has an argument 'kl', but loss.kl is a key of its own"),
        ("test_losses:nothing", {}, "no attribute 'nothing'"),
        ("test_losses:", {}, "package.module:Class"),
        ("crps", {"alpha": 2}, "alpha, the weight of the fair score, is within 0 and 1, got 2"),
        ("energy_score", {"fair": False, "alpha": 0.95}, "alpha = 0.95 .* but fair is false"),
        ("mean_mse", {"alpha": 2}, "unknown key 'loss.alpha' for mean_mse"),
        ("alpha_divergence", {"alpha": 0}, "alpha of alpha_divergence is 0"),
        ("beta_nll", {"beta": 2}, "within 0 and 1, got 2"),
        ("beta_nll", {"likelihood.name": "gaussian"}, "predicted_gaussian.*got Gaussian"),
        ("gaussian_moments_nll", {"noise": -1}, "noise .* got -1"),
        ("predictive_nll", {"likelihood.name": "student_t", "likelihood.df": -1}, "df .* got -1"),
        ("crps", {"latitudes": "south"}, r"latitudes = 'south' must be a list of degrees"),
        ("crps", {"latitudes": [0, "1"]}, r"latitudes = \[0, '1'\] must be a list of degrees"),
        ("expected_nll", {"likelihood.name": "categorical"}, "is a loss of classes.* are numeric"),
        ("no.such:Loss", {}, "No module named"),
        ("math:pi", {}, "not a subclass of hpcsamp.losses.DataLoss"),
    ],
)
def test_wrong_names_are_refused(name, arguments, words):
    with pytest.raises(UsageError, match=words):
        L.make(name, "regression", *tables(arguments))


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        (
            "mean_mse",
            {},
            "'mean_mse' is a loss of numeric targets, .* task = 'classification' are classes",
        ),
        (
            "beta_nll",
            {},
            "'beta_nll' with a PredictedGaussian likelihood is a loss of numeric targets",
        ),
        (
            "expected_nll",
            {"likelihood.name": "poisson"},
            "with a Poisson likelihood is a loss of numeric targets",
        ),
    ],
)
def test_losses_of_values_are_refused_for_classes(name, arguments, words):
    with pytest.raises(UsageError, match=words):
        L.make(name, "classification", *tables(arguments))


def test_wrong_options_are_refused():
    with pytest.raises(UsageError, match="recompute"):
        L.ELBO(L.CRPS(), 10, memory="stream")
    with pytest.raises(
        UsageError, match=r"loss.memory = 'swap' is unknown; choose from auto, keep"
    ):
        L.ELBO(L.CRPS(), 10, memory="swap")
    with pytest.raises(UsageError, match=r"loss.kl = 'exact'"):
        L.ELBO(L.CRPS(), 10, kl="exact")
    with pytest.raises(UsageError, match="exactness must be"):
        L.Custom(lambda y, t: y, exactness="yes")
    for make in (L.schedules.linear, L.schedules.cosine, L.schedules.cyclic):
        with pytest.raises(UsageError, match="at least 1, got 0"):
            make(0)
    with pytest.raises(UsageError, match="growing"):
        L.schedules.cyclic(3, growing=0)


def test_schedules():
    assert [L.schedules.linear(4)(t) for t in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]
    cosine = [L.schedules.cosine(2)(t) for t in range(3)]
    assert cosine == pytest.approx([0.5, 1, 1])
    assert [L.schedules.cyclic(4)(t) for t in range(6)] == [0.5, 1, 1, 1, 0.5, 1]


def test_every_loss_says_what_it_is():
    table = L.table()
    for name, loss in L.LOSSES.items():
        row = next(line for line in table.splitlines() if line.startswith(f"| `{name}` |"))
        about = loss.about
        for fact in (about.kind, about.shares, about.bytes, about.cost, about.source):
            assert f"| {fact} |" in row
            assert fact in loss.__doc__
        assert about.formula in loss.__doc__
        assert (about.kind == "linear") == loss.linear
        assert (about.kind == "joint") == loss.joint
        cells = row.replace("\\|", "").strip("|").split("|")
        assert len(cells) == 7


def test_the_page_of_losses_has_the_table():
    page = (Path(__file__).parents[1] / "docs" / "guides" / "losses.md").read_text()
    _, begin, rest = page.partition("<!-- losses -->\n")
    section, end, _ = rest.partition("<!-- /losses -->")
    assert begin
    assert end
    wanted = L.table()
    assert section.strip() == wanted.strip(), (
        "put the output of `python -c 'import hpcsamp.losses as l; print(l.table())'` between the "
        "markers in docs/guides/losses.md"
    )
