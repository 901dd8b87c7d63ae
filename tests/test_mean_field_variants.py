"""Flipout, local reparameterisation, antithetic pairs: another gradient, the same posterior."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from hpcsamp import losses
from hpcsamp.collectives import Alone, distribute
from hpcsamp.errors import UsageError
from hpcsamp.methods import METHODS, Flipout, LocalReparameterisation, MeanField
from hpcsamp.models import MLP, ViT

VARIANTS = [Flipout, LocalReparameterisation]


def normal(*shape, seed=5):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


X = normal(6, 3)


def linear(outputs=2):
    torch.manual_seed(1)
    return nn.Linear(3, outputs).double()


class Tokens(nn.Module):
    """A layer over positions, one over patches, and a variable outside of any layer."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.patches = nn.Conv2d(1, 4, 2, stride=2)
        self.token = nn.Parameter(torch.randn(1, 1, 4))
        self.table = nn.Linear(2, 4)  # called without a batch axis
        self.mix = nn.Linear(4, 3)

    def forward(self, x):
        t = self.patches(x).flatten(2).transpose(1, 2) + self.token
        return self.mix(t + self.table(torch.ones(t.shape[1], 2, dtype=x.dtype))).mean(1)


@pytest.mark.parametrize("kind", VARIANTS)
def test_outputs_have_the_moments_of_weight_draws(kind):
    method = kind(linear(), initial_std=0.4, seed=2, samples_per_pass=400)
    with torch.no_grad():
        out = method(X, samples=range(400), step=0)
        out = torch.cat([out, *(method(X, samples=range(400), step=t) for t in range(1, 20))])
    n = len(out)
    mean = nn.functional.linear(X, *method.variables.random.views(method.mean.detach()))
    variance = 0.4**2 * (X.square().sum(1, keepdim=True) + 1).expand_as(mean)
    assert ((out.mean(0) - mean).abs() < 5 * (variance / n).sqrt()).all()
    assert ((out.var(0) / variance - 1).abs() < 5 * math.sqrt(2 / n)).all()
    # items are uncorrelated, which those of plain weight draws are not
    centred = (out - mean) / variance.sqrt()
    between = (centred[:, 0, 0] * centred[:, 1, 0]).mean().abs()
    assert between < 5 / math.sqrt(n)


def gradients(method, steps, samples=1):
    """``(steps, 2n)`` gradients of a quadratic loss, one per draw of noise."""
    found = []
    for step in range(steps):
        loss = (method(X, samples=range(samples), step=step) - 1).square().mean()
        found.append(torch.cat(torch.autograd.grad(loss, [method.mean, method.log_std])))
    return torch.stack(found)


@pytest.mark.parametrize("kind", VARIANTS)
def test_the_gradient_is_that_of_weight_draws_with_less_noise(kind):
    """For a linear layer and a squared loss the expectation has a closed form."""
    plain = MeanField(linear(), initial_std=0.3, seed=2)
    method = kind(linear(), initial_std=0.3, seed=2)
    mean, log_std = (p.detach().clone().requires_grad_() for p in (plain.mean, plain.log_std))
    y = nn.functional.linear(X, *plain.variables.random.views(mean)) - 1
    v = nn.functional.linear(X.square(), *plain.variables.random.views((2 * log_std).exp()))
    expected = torch.cat(torch.autograd.grad((y.square() + v).mean(), (mean, log_std)))
    weights, items = (gradients(m, 1000) for m in (plain, method))
    for found in (weights, items):
        error = (found.mean(0) - expected).abs()
        assert (error < 5 * found.std(0) / math.sqrt(len(found))).all()
    ratio = items.var(0).sum() / weights.var(0).sum()
    assert ratio < 0.6  # 6 items with noise of their own


@pytest.mark.parametrize("kind", VARIANTS)
def test_an_item_has_its_noise_in_any_batch(kind):
    method = kind(Tokens().double(), initial_std=0.3, seed=4)
    x = normal(5, 1, 4, 4)
    index = torch.tensor([7, 1, 30, 4, 9])
    out = method(x, samples=range(3), step=2, index=index)
    some = torch.tensor([3, 0])
    again = method(x[some], samples=range(1, 3), step=2, index=index[some])
    assert torch.allclose(again, out[1:, some], rtol=1e-12)
    assert not torch.allclose(method(x, samples=range(3), step=2), out)  # other items
    vectorised = kind(Tokens().double(), initial_std=0.3, seed=4, samples_per_pass=2)
    assert torch.allclose(vectorised(x, samples=range(3), step=2, index=index), out, rtol=1e-12)
    views = torch.stack([x, x, 2 * x])
    stacked = method(views, samples=range(3), step=2, index=index, stacked=True)
    assert torch.allclose(stacked[:2], out[:2], rtol=1e-12)
    assert not torch.allclose(stacked[2], out[2])


@pytest.mark.parametrize("kind", VARIANTS)
def test_what_is_not_a_layer_takes_the_draws_of_the_sample(kind):
    method = kind(Tokens().double(), initial_std=0.3, seed=4)
    x = normal(2, 1, 4, 4)
    method(x, samples=range(1), step=0)
    names = {layer.weight for layer in method._layers.values()}
    slots = method.variables.random.names
    assert {slots[i] for i in names} == {"patches.weight", "mix.weight"}  # not the table
    with torch.no_grad():  # without noise in the layers: only token and table are drawn
        for name, log_std in method.named_variational():
            if name.endswith("log_std") and name.split(".")[0] in ("patches", "mix"):
                log_std.fill_(-40)
    plain = MeanField(Tokens().double(), seed=4)
    plain.load_state_dict(method.state_dict())
    ours, theirs = (m(x, samples=range(3), step=1) for m in (method, plain))
    assert torch.allclose(ours, theirs, rtol=1e-12)
    assert not torch.allclose(ours[0], ours[1])


def test_flipout_shares_the_signs_of_an_item_over_its_positions():
    method = Flipout(nn.Linear(3, 2).double(), initial_std=1.0, seed=4)
    x = torch.ones(2, 5, 3, dtype=torch.float64)
    flip = method(x, samples=range(2), step=0)
    assert torch.allclose(flip, flip[:, :, :1], rtol=1e-12)
    assert not torch.allclose(flip[:, 0], flip[:, 1])


@pytest.mark.parametrize("kind", VARIANTS)
def test_a_transformer_trains_in_every_memory_mode(kind):
    net = ViT((1, 4, 4), 3, patch=2, width=8, heads=2, layers=1, hidden=8).double()
    x, y = normal(4, 1, 4, 4), torch.arange(4) % 3
    found = []
    for memory in ("keep", "stream", "recompute"):
        method = kind(copy.deepcopy(net), seed=7, initial_std=0.1)
        loss = losses.ELBO(losses.ExpectedNLL(losses.Categorical()), 10, memory=memory)
        loss(method, x, y, samples=3, step=1).backward()
        found.append(torch.cat([p.grad for p in method.parameters()]))
    assert torch.allclose(found[1], found[0], rtol=1e-9, atol=1e-12)
    assert torch.allclose(found[2], found[0], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["mean_field", "mc_dropout", "last_layer"])
def test_every_rank_of_a_large_sample_group_has_a_prediction_sample(name):
    """Planned without ranks: S of the run is enough for any grid that may train it."""

    def of_run(samples):
        return METHODS[name].create(lambda _: MLP((3,), 2, hidden=[4]), samples, range(1))

    method = of_run(48)
    count = method.prediction_samples(None)
    shares = [list(method.prediction_share(count, 48, rank)) for rank in range(48)]
    assert shares == [[rank] for rank in range(48)]
    assert of_run(5).prediction_samples(None) == 32
    assert method.prediction_samples(7) == 7


@pytest.mark.parametrize("kind", VARIANTS)
def test_prediction_samples_are_functions(kind):
    """Equal items have equal outputs, as under the mean-field method."""
    method, plain = (k(linear(), initial_std=0.3, seed=4) for k in (kind, MeanField))
    x = torch.ones(2, 3, dtype=torch.float64)
    with method.predicting(), plain.predicting():
        found = method(x, samples=range(3))
        assert torch.allclose(found, plain(x, samples=range(3)), rtol=1e-12)
        assert torch.allclose(found, found[:, :1], rtol=1e-12)


@pytest.mark.parametrize("kind", VARIANTS)
@pytest.mark.parametrize("antithetic", [False, True])
def test_the_mean_field_optimum_of_a_linear_model_is_reached(kind, antithetic):
    """Its means are those of the exact posterior, its precisions the diagonal of the posterior's.

    (Bishop 2006, section 10.1.2.)
    """
    items, noise, prior = 24, 0.5, 1.5
    x = normal(items, 3)
    x[:, 1] += 0.5 * x[:, 0]
    y = x @ torch.tensor([[1.0], [-0.5], [0.3]]).double()
    y += noise * normal(*y.shape, seed=6)
    net = nn.Linear(3, 1, bias=False).double()
    method = kind(
        net, prior_std=prior, initial_std=0.1, seed=3, antithetic=antithetic, samples_per_pass=32
    )
    optimizer = torch.optim.Adam(method.parameters(), lr=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 500)
    distribute(optimizer, Alone(), method)
    likelihood = losses.Gaussian(std=noise)
    loss = losses.ELBO(losses.ExpectedNLL(likelihood), items)
    tail = []
    for step in range(500):
        loss(method, x, y, samples=32).backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if step >= 250:
            tail.append(torch.stack([method.mean.detach(), method.log_std.detach()]))
    found = torch.stack(tail).mean(0)
    precision = x.T @ x / noise**2 + torch.eye(3) / prior**2
    mean = torch.linalg.solve(precision, x.T @ y[:, 0] / noise**2)
    std = precision.diagonal().rsqrt()
    assert torch.allclose(found[0], mean, atol=0.1 * std.min().item())
    assert torch.allclose(found[1].exp(), std, rtol=0.05)


def test_antithetic_noise_is_mirrored_within_a_pair_alone():
    method = MeanField(linear(), seed=1, antithetic=True)
    noise = method.noise(3, range(4, 7))
    assert torch.equal(noise[1], -noise[0])
    assert not torch.equal(noise[2].abs(), noise[0].abs())
    assert torch.equal(noise[0], MeanField(linear(), seed=1).noise(3, range(4, 5))[0])
    assert torch.equal(noise[1:], method.noise(3, range(5, 7)))
    with method.predicting():
        one, other = method.noise(0, range(4, 6))
        assert not torch.equal(one.abs(), other.abs())


@pytest.mark.parametrize("kind", [MeanField, *VARIANTS])
def test_antithetic_pairs_cancel_in_a_linear_model(kind):
    method = kind(linear(), initial_std=0.5, seed=1, antithetic=True)
    out = method(X, samples=range(5), step=2)  # the last one has no partner
    mean = nn.functional.linear(X, *method.variables.random.views(method.mean))
    for first in (0, 2):
        assert torch.allclose(out[first : first + 2].mean(0), mean, rtol=1e-12, atol=1e-12)
        assert not torch.allclose(out[first], mean)
    assert not torch.allclose(out[4], mean)


def test_antithetic_pairs_lower_the_noise_of_the_gradient():
    torch.manual_seed(2)
    net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2)).double()
    plain, pairs = (
        gradients(MeanField(copy.deepcopy(net), initial_std=0.05, seed=1, antithetic=a), 200, 2)
        for a in (False, True)
    )
    n = plain.shape[1] // 2  # of the means; that of the deviations is even in the noise
    assert pairs[:, :n].var(0).sum() < 0.3 * plain[:, :n].var(0).sum()


@pytest.mark.parametrize("kind", VARIANTS)
def test_densities_of_draws_are_refused(kind):
    method = kind(linear(), seed=1)
    with pytest.raises(UsageError, match="no common density"):
        method.log_ratio(range(2))


def test_what_it_cannot_do_is_said(hpcsamp, small, tmp_path):
    with pytest.raises(UsageError, match=r"no nn\.Linear or convolution"):
        Flipout(nn.Sequential(nn.LayerNorm(3)), bayesian=lambda n: True)(
            X.float(), samples=range(1)
        )
    from torch_blue import vi

    with pytest.raises(UsageError, match=r"plain nn\.Module"):
        Flipout(vi.VILinear(3, 2))(X.float(), samples=range(1))
    net = ViT((1, 4, 4), 3, patch=2, width=8, heads=2, layers=1, hidden=8, checkpoint=True)
    fresh = copy.deepcopy(net)
    with pytest.raises(UsageError, match="checkpoint"):
        Flipout(net)(torch.zeros(2, 1, 4, 4), samples=range(1)).sum().backward()
    chunk = Flipout(fresh, samples_per_pass=4)
    with pytest.raises(UsageError, match="checkpoint"):  # tried with its gradients
        chunk(torch.zeros(2, 1, 4, 4), samples=range(4)).sum().backward()
    sets = ["--set=method.name=flipout", "--set=loss.kl=monte_carlo"]
    done = hpcsamp(2, "train", small, "--output", tmp_path / "run", *sets)
    assert done.code == 2
    assert len(done.errors) == 1
    assert "monte_carlo" in done.errors[0]
