"""The ELBO apart from its data term: both kinds of KL, the paper's approximation, masks."""

from __future__ import annotations

import copy
import gc
import itertools
import math
import weakref

import pytest
import torch
from loss_cases import Crowd
from torch import nn

from hpcsamp import losses as L  # noqa: N812
from hpcsamp.collectives import Alone
from hpcsamp.errors import UsageError
from hpcsamp.grid import share
from hpcsamp.methods import MeanField
from hpcsamp.methods.ensemble import Ensemble
from hpcsamp.methods.flipout import Flipout
from hpcsamp.methods.mc_dropout import MCDropout
from hpcsamp.models import build

S, B, C = 5, 7, 4
LABELS = torch.randint(0, C, (B,), generator=torch.Generator().manual_seed(0))
X = torch.randn(B, 3, generator=torch.Generator().manual_seed(3)).double()


NETWORK = build("mlp", {"hidden": [6], "activation": "tanh"}, (3,), C, seed=1).double()


def network():
    return copy.deepcopy(NETWORK)


def test_data_and_penalty_add_up():
    data_loss = L.PredictiveNLL(L.Categorical())
    for kl in ("analytic", "monte_carlo"):
        method = MeanField(network(), prior_std=0.5, initial_std=0.2)
        elbo = L.ELBO(data_loss, 50, temperature=0.7, warmup=lambda t: (t + 1) / 4, kl=kl)
        value = elbo(method, X, LABELS, samples=S, step=1)
        outputs = method(X, samples=range(S), step=1)
        data = data_loss(outputs, LABELS, S, Alone()).mean()
        penalty = method.penalty() if kl == "analytic" else method.log_ratio(range(S), 1).mean()
        penalty = 0.7 * 0.5 * penalty / 50
        assert value.item() == pytest.approx((data + penalty).item(), rel=1e-12)
        assert elbo.parts.data == pytest.approx(data.item(), rel=1e-12)
        assert elbo.parts.penalty == pytest.approx(penalty.item(), rel=1e-12)


def test_the_log_ratio_is_torch_blues_and_its_mean_the_analytic_kl():
    from torch_blue.vi.distributions import MeanFieldNormal

    method = MeanField(network(), prior_mean=0.1, prior_std=0.5, initial_std=0.2)
    with torch.no_grad():  # a posterior with something to it
        g = torch.Generator().manual_seed(6)
        method.log_std.add_(0.3 * torch.randn(method.log_std.shape, generator=g).double())
    blue, ratios = MeanFieldNormal(eps=0.0), []
    prior = torch.tensor([0.1, math.log(0.5)], dtype=torch.float64).unbind()
    for s in range(3):
        w = method.draw(2, range(s, s + 1))[0]
        log_q = blue.log_prob(w, (method.mean, method.log_std)).sum()
        ratios.append(log_q - blue.log_prob(w, prior).sum())
    want, scale = torch.stack(ratios), torch.tensor([1.0, -2.0, 0.5]).double()
    got = method.log_ratio(range(3), 2)
    assert torch.allclose(got, want, rtol=1e-12)
    parameters = [method.mean, method.log_std]
    for a, b in zip(
        torch.autograd.grad(got @ scale, parameters),
        torch.autograd.grad(want @ scale, parameters),
        strict=True,
    ):
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-12)
    with torch.no_grad():
        many = method.log_ratio(range(2000), 0)
    error = 4 * many.std() / math.sqrt(len(many))
    assert abs(many.mean() - method.penalty()) < error


def test_a_flat_prior_has_a_log_ratio_too():
    from torch_blue import vi
    from torch_blue.vi.distributions import UniformPrior

    method = MeanField(vi.VILinear(3, 4, prior=UniformPrior()).double())
    with torch.no_grad():
        many = method.log_ratio(range(4000), 0)
    assert abs(many.mean() - method.penalty()) < 4 * many.std() / math.sqrt(len(many))


def test_kl_by_layer_adds_up_to_the_penalty():
    method = MeanField(network(), prior_std=0.5, initial_std=0.2)
    layers = L.kl_by_layer(method)
    assert [(layer.layer, layer.weights) for layer in layers] == [
        ("layers.1", 24),
        ("layers.3", 28),
    ]
    assert sum(layer.nats for layer in layers) == pytest.approx(method.penalty().item(), rel=1e-12)
    assert all(layer.nats > 0 for layer in layers)


@pytest.mark.parametrize("kl", ["analytic", "monte_carlo"])
def test_the_gradient_of_the_kl_is_shared_out_over_the_group(kl):
    whole = MeanField(network(), prior_std=0.5, initial_std=0.2)
    L.ELBO(L.ExpectedNLL(L.Categorical()), 50, kl=kl)(whole, 0 * X, LABELS, samples=S).backward()

    def rank(group):
        method = MeanField(network(), prior_std=0.5, initial_std=0.2)
        elbo = L.ELBO(L.ExpectedNLL(L.Categorical()), 50, group, kl=kl)
        elbo(method, 0 * X, LABELS, samples=S).backward()
        # zero inputs: the data say nothing of the first weights
        return method.mean.grad.clone(), (method.mean.grad[:18] != 0).sum().item()

    parts = Crowd(3).run(rank)
    total = sum(gradient for gradient, _ in parts)
    assert torch.allclose(total, whole.mean.grad, rtol=1e-12, atol=1e-15)
    if kl == "analytic":  # 52 weights: the first rank has slice 0-17, the second one weight of 18
        assert [n for _, n in parts] == [17, 1, 0]


def test_masked_items_count_for_nothing():
    weight = torch.tensor([1, 1, 1, 1, 1, 0, 0]).double()
    method = MeanField(network())
    x = X.clone()
    x[5:] = 1e6
    for loss in (L.ExpectedNLL(L.Categorical()), L.PredictiveNLL(L.Categorical())):
        elbo = L.ELBO(loss, 50)
        masked = elbo(method, X, LABELS, samples=S, weight=weight, count=5)
        assert masked.item() == pytest.approx(elbo(method, X[:5], LABELS[:5], samples=S).item())
        wild = elbo(method, x, LABELS, samples=S, weight=weight, count=5)
        assert wild.item() == pytest.approx(masked.item())
    with pytest.raises(UsageError, match=r"shape \(3,\), but there are 7 items"):
        elbo(method, X, LABELS, samples=S, weight=weight[:3])


@pytest.mark.parametrize("ranks", [2, 3])
def test_the_approximation_averages_the_losses_of_ranks(ranks):
    """With exact = false, as in the paper: the loss of each rank's own samples, then the mean."""
    loss = L.PredictiveNLL(L.Categorical())

    def rank(group):
        method = MeanField(network(), initial_std=0.5)
        elbo = L.ELBO(loss, 50, group, exact=False, temperature=0.0, memory="recompute")
        value = elbo(method, X, LABELS, samples=S, step=0)
        value.backward()
        return value.item(), method.mean.grad

    results = Crowd(ranks).run(rank)
    method, want = MeanField(network(), initial_std=0.5), torch.zeros(()).double()
    for p in range(ranks):
        own = share(S, ranks, p)
        outputs = method(X, samples=own, step=0)
        want = want + loss(outputs, LABELS, len(own), Alone()).mean() / ranks
    want.backward()
    assert [v for v, _ in results] == [pytest.approx(want.item(), rel=1e-12)] * ranks
    assert torch.allclose(sum(g for _, g in results), method.mean.grad, rtol=1e-12)


def test_a_predicted_width_reaches_the_predictive_distribution():
    """Total variance: the mean of the predicted variances and the variance of the means."""
    from hpcsamp.tasks.predictive import local_outputs, predict_values

    y = torch.randn(B, 2, generator=torch.Generator().manual_seed(8)).double()
    method = MeanField(network(), initial_std=0.3)
    likelihood = L.PredictedGaussian()
    found = predict_values(method, X, y, S, Alone(), likelihood)
    outputs = local_outputs(method, X, S, Alone())
    mean, raw = outputs[..., :2], outputs[..., 2:]
    variance = (1e-6 + nn.functional.softplus(raw)) ** 2
    assert torch.allclose(found.mean, mean.mean(0))
    assert torch.allclose(found.aleatoric, variance.mean(0))
    assert torch.allclose(found.epistemic, mean.var(0, correction=0))
    density = torch.distributions.Normal(mean, variance.sqrt()).log_prob(y).sum(-1)
    assert torch.allclose(found.log_density, density.logsumexp(0) - math.log(S))


@pytest.mark.parametrize(("chunk", "alive"), [(1, 0), (2, 0), (4, 1)])
def test_streaming_keeps_no_activations_unless_all_samples_go_in_one_pass(chunk, alive):
    net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    kept = []
    net[1].register_forward_hook(lambda module, inputs, y: kept.append(weakref.ref(y)))
    method = MeanField(net, seed=1, samples_per_pass=chunk)
    loss = L.ELBO(L.ExpectedNLL(L.Gaussian(std=1.0)), 5)
    x, y = torch.ones(5, 3, dtype=torch.float64), torch.ones(5, 1, dtype=torch.float64)
    loss(method, x, y, samples=4)  # what is tried once is done with
    kept.clear()
    value = loss(method, x, y, samples=4)
    gc.collect()
    assert sum(ref() is not None for ref in kept) == alive
    value.backward()


def test_a_batch_in_parts_holds_the_activations_of_one_and_draws_as_the_whole():
    """Per-item draws (signs, masks) and views of each sample are those of the whole batch."""
    seen = []
    net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, C)).double()
    net[1].register_forward_hook(lambda module, inputs, y: seen.append(weakref.ref(y)))
    views = torch.randn(S, B, 3, generator=torch.Generator().manual_seed(5)).double()
    made = (
        lambda: Flipout(copy.deepcopy(net), initial_std=0.3, samples_per_pass=1),
        lambda: MCDropout(copy.deepcopy(net), masks="item", samples_per_pass=2),
        lambda: Ensemble(lambda s: copy.deepcopy(net), S, samples_per_pass=1),
    )
    for make, loss in itertools.product(made, (L.ExpectedNLL, L.PredictiveNLL)):
        for x, stacked, index in ((X, False, None), (views, True, torch.arange(B) + 100)):
            results = []
            for parts in (1, 3):
                method = make()
                elbo = L.ELBO(loss(L.Categorical()), 50, accumulate=parts)
                named = {"samples": S, "stacked": stacked, "index": index}
                elbo(method, x, LABELS, **named)  # what is tried once is done with
                seen.clear()
                elbo(method, x, LABELS, **named).backward()
                results.append(torch.cat([p.grad.flatten() for p in method.parameters()]))
            assert torch.allclose(results[1], results[0], rtol=1e-10, atol=1e-13)
            gc.collect()
            assert all(y() is None for y in seen)


def test_batches_are_taken_in_a_whole_number_of_parts():
    with pytest.raises(UsageError, match=r"accumulate must be .* number of at least 1; got 0"):
        L.ELBO(L.ExpectedNLL(L.Categorical()), 50, accumulate=0)
