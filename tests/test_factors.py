"""BatchEnsemble and rank-1 networks: explicit networks, closed forms, refusals."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.distributions import Normal, kl_divergence

from hpcsamp.errors import UsageError
from hpcsamp.methods import BatchEnsemble, MeanField, Rank1
from hpcsamp.prediction.draws import weights_of

S = 3


def network():
    torch.manual_seed(4)
    return nn.Sequential(
        nn.Conv2d(4, 6, 3, groups=2, padding=1), nn.ReLU(), nn.Flatten(), nn.LayerNorm(96),
        nn.Linear(96, 5), nn.Tanh(), nn.Linear(5, 2, bias=False),
    ).double()  # fmt: skip


def explicit(plain, values, names):
    """A plain network with weights W * outer(s, r), which has a graph back to all of them."""
    weights = {n: values[n] for n in names}
    for n in names:
        layer = n.removesuffix(".weight")
        if f"{layer}.factor_in" in values:
            r, s = values[f"{layer}.factor_in"].flatten(), values[f"{layer}.factor_out"].flatten()
            w = weights[n]
            groups = len(r) // w.shape[1]
            inner = r.view(groups, 1, -1).expand(groups, len(w) // groups, -1).reshape(len(w), -1)
            ends = (1,) * (w.dim() - 2)
            weights[n] = w * s.view(-1, 1, *ends) * inner.view(len(w), -1, *ends)
    return lambda x: torch.func.functional_call(plain, weights, (x,))


@pytest.mark.parametrize("strategy", ["batched", "vmap", "loop"])
@pytest.mark.parametrize("stacked", [False, True])
def test_members_are_networks_with_weights_of_rank_one_factors(strategy, stacked):
    plain, own = network(), network()
    method = BatchEnsemble(own, S, initial_std=0.5, seed=2, samples_per_pass=S)
    method.strategy = strategy
    with torch.no_grad():  # biases of the members differ too
        method.members.add_(torch.linspace(-0.1, 0.2, method.members.numel()).view(S, -1))
    x = torch.randn(*([S] if stacked else []), 4, 4, 4, 4, dtype=torch.float64)
    up = torch.randn(S, 4, 2, dtype=torch.float64)
    found = method(x, range(S), stacked=stacked)
    grads = torch.autograd.grad((found * up).sum(), [method.weights, method.members])

    leaf = {n: v.clone().requires_grad_() for n, v in method.named_variational()}
    names = [n for n, _ in plain.named_parameters()]
    outputs = []
    for s in range(S):
        shared = {n: leaf[n] for n in method._shared.names}
        values = shared | {n: leaf[n][s] for n in method._own.names}
        outputs.append(explicit(plain, values, names)(x[s] if stacked else x))
    wanted = torch.stack(outputs)
    assert torch.allclose(found, wanted, rtol=1e-12, atol=1e-13)
    true = dict(
        zip(leaf, torch.autograd.grad((wanted * up).sum(), list(leaf.values())), strict=True)
    )
    found = method._shared.named(grads[0]) | method._own.named(grads[1])
    for name, gradient in true.items():
        assert torch.allclose(found[name], gradient, rtol=1e-11, atol=1e-12), name


def test_samples_of_a_chunk_are_one_product():
    """The batched strategy is admitted, and a linear layer sees S B rows."""
    method = BatchEnsemble(nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)), S)
    method.strategy, method.samples_per_pass = "batched", S
    x = torch.randn(7, 3)
    method(x, range(S))
    rows = []
    layer = method.module[2]
    layer.register_forward_hook(lambda _, inputs, y: rows.append(len(y)))
    method(x, range(S))
    assert rows == [S * 7]


def test_initial_factors_are_random_signs_or_normal():
    method = BatchEnsemble(nn.Linear(200, 300), 2, seed=3)
    factors = torch.cat([x.flatten() for n, x in method.named_variational() if "factor" in n])
    assert set(factors.tolist()) == {-1.0, 1.0}
    assert abs(factors.mean()) < 0.1
    method = BatchEnsemble(nn.Linear(200, 300), 2, seed=3, initial_std=0.5)
    factors = torch.cat([x.flatten() for n, x in method.named_variational() if "factor" in n])
    assert abs(factors.mean() - 1) < 0.06
    assert abs(factors.std() - 0.5) < 0.04


def test_the_penalty_of_rank_one_is_the_kl_of_the_factors_and_the_prior_of_weights():
    method = Rank1(network(), prior_std=0.3, initial_std=0.1, weight_std=2.0)
    with torch.no_grad():
        method.mean.add_(0.1)
        method.log_std.add_(torch.linspace(0, 1, len(method.mean)))
    assert all("factor" in n for n in method.variables.random.names)
    prior = Normal(torch.tensor(1.0).double(), 0.3)
    kl = kl_divergence(Normal(method.mean, method.log_std.exp()), prior).sum()
    wanted = kl + method.fixed.square().sum() / 8
    assert torch.allclose(method.penalty(), wanted, rtol=1e-12)
    parts = sum(method.penalty(p, 3) for p in range(3))
    assert torch.allclose(parts, wanted, rtol=1e-12)
    ratio = method.log_ratio(range(4000)).mean().detach()  # whose mean is the KL divergence
    assert float(ratio) == pytest.approx(float(wanted.detach()), rel=0.02)


def test_a_draw_of_rank_one_is_a_network_with_factors():
    plain, method = network(), Rank1(network(), initial_std=0.4, samples_per_pass=S)
    x = torch.randn(4, 4, 4, 4, dtype=torch.float64)
    found = method(x, range(S), 7)
    fixed = method.variables.deterministic.named(method.fixed)
    names = [n for n, _ in plain.named_parameters()]
    for s in range(S):
        drawn = method.variables.random.named(method.draw(7, range(s, s + 1))[0])
        wanted = explicit(plain, fixed | drawn, names)(x)
        assert torch.allclose(found[s], wanted, rtol=1e-12, atol=1e-13)


def test_what_cannot_have_factors_is_refused():
    for make in (lambda m: BatchEnsemble(m, 2), Rank1):
        with pytest.raises(UsageError, match=r"LayerNorm has no nn\.Linear or convolution"):
            make(nn.LayerNorm(3))
    for key in ("initial_std", "prior_std"):
        with pytest.raises(UsageError, match=f"method.{key} = 0.0 must be greater than 0"):
            BatchEnsemble(nn.Linear(2, 1), 2, **{key: 0.0})
    with pytest.raises(UsageError, match=r"method\.weight_std = -1\.0"):
        Rank1(nn.Linear(2, 1), weight_std=-1.0)
    method = BatchEnsemble(nn.Linear(2, 1), 2)
    with pytest.raises(UsageError, match="has 2 members"):
        method(torch.ones(3, 2), range(3))
    with pytest.raises(UsageError, match=r"evaluation\.samples = 5, but"):
        method.prediction_samples(5)
    with pytest.raises(UsageError, match="cannot split a network over model ranks"):
        method.check_parts()


@pytest.mark.parametrize("method", [BatchEnsemble(network(), S), Rank1(network())])
def test_weights_with_factors_cannot_be_sharded(method):
    with pytest.raises(UsageError, match=f"for {type(method).__name__} set optimizer"):
        method.check_shares()


def test_attention_keeps_its_projections_and_a_network_can_be_copied():
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True).double()
    x = torch.randn(3, 5, 8, dtype=torch.float64)
    before = layer(x)
    method = BatchEnsemble(layer, S, initial_std=1e-9)
    assert torch.allclose(method(x, range(S)), before.expand(S, *before.shape), atol=1e-6)
    copied = copy.deepcopy(method)
    assert torch.equal(copied(x, range(S)), method(x, range(S)))


@pytest.mark.parametrize("kind", ["batch_ensemble", "rank1"])
def test_drawn_weights_are_those_of_a_plain_network(kind):
    """Each draw is a network of its own: its weights hold the factors of the sample."""
    own = network()
    made = BatchEnsemble(own, S, initial_std=0.5) if kind == "batch_ensemble" else Rank1(own)
    x = torch.randn(4, 4, 4, 4, dtype=torch.float64)
    made.prediction_share(S, 1, 0)
    with made.predicting(), torch.no_grad():
        wanted = made(x, samples=range(S), step=0)
    for s in range(S):
        values = weights_of(made, x, s)
        assert values.keys() == dict(network().named_parameters()).keys()
        found = torch.func.functional_call(network(), values, (x,))
        assert torch.allclose(found, wanted[s], rtol=1e-12, atol=1e-13)


class Marked(nn.Sequential):
    """Marks the weight of its first layer, and the bias of its last, as deterministic."""

    deterministic = ("0.weight", "2.bias")


@pytest.mark.parametrize("name", ["batch_ensemble", "rank1"])
def test_what_is_marked_has_neither_factors_nor_a_prior(name):
    """In each share of the penalty, too."""
    torch.manual_seed(4)
    net = Marked(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)).double()
    if name == "rank1":
        method, own = Rank1(net, weight_std=0.5), ("0.bias", "2.weight")
        first = MeanField.penalty(method)
    else:
        method, own = BatchEnsemble(net, S, prior_std=0.5), ("0.bias", "2.weight")
        first = torch.zeros(())
        assert not [n for n in method._own.names if n.startswith("0.")]
        assert "2.bias" in method._shared.names
    values = dict(net.named_parameters())
    assert "0.factor_in" not in values
    assert "2.factor_in" in values
    expected = sum(values[n].square().sum() for n in own) / (2 * 0.25)
    assert (method.penalty() - first).item() == pytest.approx(expected.item(), rel=1e-12)
    shares = sum(method.penalty(part, 3) for part in range(3))
    assert shares.item() == pytest.approx(method.penalty().item(), rel=1e-12)
