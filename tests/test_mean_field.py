"""Mean-field sampling: the same draws in every form of evaluation, and torch_blue's numbers."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn
from torch_blue import vi
from torch_blue.vi.distributions import Categorical, MeanFieldNormal, UniformPrior

from hpcsamp.errors import UsageError
from hpcsamp.methods import MeanField
from hpcsamp.models import MLP, ViT, build


def network():
    return build("mlp", {"hidden": [7, 5], "activation": "tanh"}, (3,), 4, seed=2).double()


@pytest.fixture
def x():
    return torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_a_draw_is_mean_plus_std_times_noise(x):
    method = MeanField(network(), initial_std=0.3, seed=5)
    weights = method.draw(2, range(1, 2))[0]
    by_formula = method.mean + method.log_std.exp() * method.noise(2, range(1, 2))[0]
    assert torch.allclose(weights, by_formula, rtol=1e-15, atol=1e-15)
    by_hand = network()
    nn.utils.vector_to_parameters(weights.detach(), by_hand.parameters())
    assert torch.allclose(method(x, samples=range(1, 2), step=2)[0], by_hand(x), atol=1e-14)


def test_noise_is_standard_normal():
    noise = MeanField(nn.Linear(300, 300)).noise(0, range(1))
    assert abs(noise.mean()) < 0.02
    assert abs(noise.std() - 1) < 0.02


@pytest.mark.parametrize("model", ["mlp", "vit"])
@pytest.mark.filterwarnings("ignore:There is a performance drop")  # vmap of attention on a CPU
def test_loop_vectorised_and_split_samples_agree(model):
    if model == "mlp":
        net, inputs = network(), torch.randn(6, 3).double()
    else:
        net = ViT((1, 4, 4), 3, patch=2, width=8, heads=2, layers=1, hidden=8).double()
        inputs = torch.randn(2, 1, 4, 4).double()
    loop = MeanField(copy.deepcopy(net), initial_std=0.1, seed=7)
    reference = loop(inputs, samples=range(5), step=3)
    for k in (2, 4, 8):
        other = MeanField(copy.deepcopy(net), initial_std=0.1, seed=7, samples_per_pass=k)
        assert torch.allclose(other(inputs, samples=range(5), step=3), reference, atol=1e-12)
    split = torch.cat(
        [loop(inputs, samples=r, step=3) for r in (range(1), range(1, 3), range(3, 5))]
    )
    assert torch.equal(split, reference)


def test_stacked_inputs_go_to_their_samples(x):
    many = torch.stack([x, 2 * x, 3 * x])
    for k in (1, 2):
        method = MeanField(network(), seed=7, samples_per_pass=k)
        out = method(many, samples=range(4, 7), step=0, stacked=True)
        for i in range(3):
            alone = method(many[i], samples=range(4 + i, 5 + i), step=0)[0]
            assert torch.allclose(out[i], alone, atol=1e-12)


def test_gradients_are_autograds(x):
    """Against the formula of the weights, with plain autograd."""
    method = MeanField(network(), initial_std=0.2, seed=1)
    method(x, samples=range(3), step=0).square().sum().backward()
    mean, log_std = (p.detach().clone().requires_grad_() for p in (method.mean, method.log_std))
    net, total = network(), 0
    for s in range(3):
        w = mean + log_std.exp() * method.noise(0, range(s, s + 1))[0]
        parts = w.split([p.numel() for p in net.parameters()])
        named = {n: v.view_as(p) for (n, p), v in zip(net.named_parameters(), parts, strict=True)}
        total = total + torch.func.functional_call(net, named, (x,)).square().sum()
    total.backward()
    assert torch.allclose(method.mean.grad, mean.grad, rtol=1e-12)
    assert torch.allclose(method.log_std.grad, log_std.grad, rtol=1e-12)


@pytest.mark.parametrize("k", [1, 3])
def test_accumulated_gradients_are_the_same(x, k):
    method = MeanField(network(), initial_std=0.2, seed=1, samples_per_pass=k)
    method(x, samples=range(6), step=0).square().sum().backward()
    with method.accumulating() as accumulator:
        for chunk in method.chunks(range(6)):
            accumulator.backward(method(x, samples=chunk, step=0).square().sum())
    for got, parameter in zip(accumulator.gradients(), method.parameters(), strict=True):
        assert torch.allclose(got, parameter.grad, rtol=1e-12)


def blue_model(prior=None):
    prior = prior or MeanFieldNormal(0.1, 0.5)
    return vi.VISequential(
        vi.VILinear(3, 7, prior=prior), nn.Tanh(), nn.LayerNorm(7), vi.VILinear(7, 4, prior=prior)
    ).double()


def test_torch_blue_models_take_our_draws(x):
    method = MeanField(blue_model(), seed=4)
    assert method.fixed is not None  # its LayerNorm
    both = method(x, samples=range(4), step=0)
    assert torch.equal(both[1:3], method(x, samples=range(1, 3), step=0))
    assert not torch.allclose(both[0], both[1])
    vectorised = MeanField(blue_model(), seed=4, samples_per_pass=4)
    vectorised.load_state_dict(method.state_dict())
    assert torch.allclose(vectorised(x, samples=range(4), step=0), both, atol=1e-12)
    both.sum().backward()
    assert method.fixed.grad.abs().sum() > 0


def test_identical_rows_get_identical_outputs():
    """torch_blue's fast path would draw noise per row."""
    method = MeanField(blue_model(), seed=4)
    out = method(torch.ones(2, 3).double(), samples=range(2), step=0)
    # to rounding: rows of one product may take different kernels
    assert torch.allclose(out[:, 0], out[:, 1], rtol=1e-12)


def test_kl_is_torch_blues_and_the_closed_form():
    model = blue_model()
    for p in model.parameters():
        p.data += 0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()))
    criterion = vi.AnalyticalKullbackLeiblerLoss(model, Categorical(), dataset_size=1)
    theirs = criterion.prior_matching()
    method = MeanField(model)
    ours = method.penalty()
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)
    m, s, m0, s0 = method.mean, method.log_std.exp(), 0.1, 0.5
    closed = (math.log(s0) - s.log() + (s**2 + (m - m0) ** 2) / (2 * s0**2) - 0.5).sum()
    assert ours.item() == pytest.approx(closed.item(), rel=1e-6)
    expected = torch.autograd.grad(closed, (method.mean, method.log_std))
    got = torch.autograd.grad(ours, (method.mean, method.log_std))
    for e, g in zip(expected, got, strict=True):
        assert torch.allclose(e, g, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("parts", [2, 3, 7])
def test_shares_of_the_kl_add_up(parts):
    method = MeanField(network(), prior_std=0.4)
    whole = method.penalty()
    (expected,) = torch.autograd.grad(whole, method.log_std)
    shares = [method.penalty(i, parts) for i in range(parts)]
    assert sum(shares).item() == pytest.approx(whole.item(), rel=1e-12)
    (got,) = torch.autograd.grad(sum(shares), method.log_std)
    assert torch.allclose(got, expected)


def test_a_flat_prior_is_torch_blues():
    model = blue_model(UniformPrior())
    theirs = vi.AnalyticalKullbackLeiblerLoss(model, Categorical(), dataset_size=1).prior_matching()
    assert MeanField(model).penalty().item() == pytest.approx(theirs.item(), rel=1e-6)


def test_the_module_shows_the_posterior(x):
    net = network()
    method = MeanField(net)
    with torch.no_grad():
        method.mean.add_(1.0)
    assert torch.equal(nn.utils.parameters_to_vector(net.parameters()), method.mean)
    method.float()
    with torch.no_grad():
        method.mean.mul_(2.0)
    assert torch.equal(nn.utils.parameters_to_vector(net.parameters()), method.mean)
    assert {p.dtype for p in net.parameters()} == {torch.float32}


def test_norms_stay_deterministic_and_trainable():
    net = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    method = MeanField(net)
    assert method.mean.numel() == 16
    assert method.fixed.numel() == 8
    names = [n for n, _ in method.named_variational()]
    assert names == [
        "0.weight.mean",
        "0.weight.log_std",
        "0.bias.mean",
        "0.bias.log_std",
        "1.weight",
        "1.bias",
    ]
    assert (
        MeanField(
            nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4)), bayesian=lambda n: True
        ).mean.numel()
        == 24
    )


def test_std_can_shrink_with_the_layer_width():
    method = MeanField(MLP((100,), 2, hidden=(25,)), initial_std=0.5, scale_std=True)
    std = dict(method.named_variational())["layers.1.weight.log_std"].exp()
    assert torch.allclose(std, torch.tensor(0.5 / 10))


def test_prediction_draws_do_not_depend_on_the_step(x):
    method = MeanField(network(), seed=1)
    with method.predicting():
        a, b = (method(x, samples=range(3), step=t) for t in (0, 9))
    assert torch.equal(a, b)
    assert not torch.equal(a, method(x, samples=range(3), step=0))


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (nn.ReLU(), "has no trainable weights"),
    ],
)
def test_what_cannot_be_sampled_is_refused(module, words):
    with pytest.raises(UsageError, match=words):
        MeanField(module)


def test_a_taken_torch_blue_module_says_whom_to_call(x):
    model = blue_model()
    MeanField(model)
    with pytest.raises(RuntimeError, match="call the method"):
        model(x)


def test_a_fused_optimiser_changes_the_next_draw(x):
    """torch's fused updates do not count as changes of a tensor: nothing may be kept by that."""
    method = MeanField(network(), initial_std=0.3, seed=5)
    optimizer = torch.optim.Adam(method.parameters(), lr=0.1, fused=True)
    method(x, samples=range(2), step=0).sum().backward()
    optimizer.step()
    by_formula = method.mean + method.log_std.exp() * method.noise(1, range(1))[0]
    assert torch.allclose(method.draw(1, range(1))[0], by_formula, rtol=1e-14)
    with method.accumulating() as accumulator:
        method(x, samples=range(1), step=1)
        assert torch.allclose(accumulator._drawn[0][0], by_formula, rtol=1e-14)
