"""Losses: against formulas, torch_blue and autograd, and exact however the samples are split."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from hpcsamp.collectives import Alone, Collectives
from hpcsamp.errors import UsageError
from hpcsamp.losses import ELBO, Categorical, ExpectedNLL, Gaussian, PredictiveNLL, make
from hpcsamp.methods import MeanField
from hpcsamp.topology import share

S, B, C = 5, 7, 4
G = torch.Generator().manual_seed(0)
LOGITS = torch.randn(S, B, C, generator=G).double() * 3
LABELS = torch.randint(0, C, (B,), generator=G)


def network():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, C)).double()


def test_expected_nll_is_the_mean_cross_entropy():
    expected = torch.stack([F.cross_entropy(y, LABELS, reduction="none") for y in LOGITS]).mean(0)
    assert torch.allclose(ExpectedNLL(Categorical())(LOGITS, LABELS, S, Alone()), expected)


def test_predictive_nll_is_the_cross_entropy_of_the_mean_and_torch_blues():
    from torch_blue.vi.distributions import Categorical as Blue

    got = PredictiveNLL(Categorical())(LOGITS, LABELS, S, Alone())
    p = LOGITS.softmax(-1).mean(0)
    assert torch.allclose(got, -p.gather(-1, LABELS[:, None])[:, 0].log())
    theirs = -Blue(eps=0.0).log_prob_from_samples(LABELS, LOGITS)
    assert torch.allclose(got, theirs, rtol=1e-12)


def test_extreme_logits_stay_finite():
    wild = torch.tensor([[[1e4, -1e4]], [[-1e4, 1e4]]])
    for target, expected in ((0, torch.log(torch.tensor(2.0))), (1, torch.log(torch.tensor(2.0)))):
        got = PredictiveNLL(Categorical())(wild, torch.tensor([target]), 2, Alone())
        assert torch.allclose(got, expected)


def test_gaussian_is_torch_distributions():
    mu, t = torch.randn(S, B, 2, generator=G), torch.randn(B, 2, generator=G)
    expected = torch.distributions.Normal(mu, 0.3).log_prob(t).sum(-1)
    assert torch.allclose(Gaussian(0.3).log_prob(mu, t), expected, rtol=1e-5)
    flat = Gaussian(0.3).log_prob(mu[..., :1], t[:, 0])  # (B, 1) outputs, (B,) targets
    assert torch.allclose(flat, torch.distributions.Normal(mu[..., 0], 0.3).log_prob(t[:, 0]))
    with pytest.raises(UsageError, match="outputs of shape"):
        Gaussian(0.3).log_prob(mu, t[:, 0])


@pytest.mark.parametrize("loss", [ExpectedNLL(Categorical()), PredictiveNLL(Categorical())])
def test_gradcheck(loss):
    outputs = LOGITS.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda y: loss(y, LABELS, S, Alone()), outputs)


MODES = [
    ("expected_nll", "keep"),
    ("expected_nll", "stream"),
    ("expected_nll", "recompute"),
    ("predictive_nll", "keep"),
    ("predictive_nll", "recompute"),
]


@pytest.mark.parametrize(("loss", "memory"), MODES)
@pytest.mark.parametrize("k", [1, 2])
def test_memory_modes_have_the_sequential_value_and_gradient(loss, memory, k):
    x, n = torch.randn(B, 3, generator=torch.Generator().manual_seed(3)).double(), 50
    data_loss = make(loss, "classification")
    method = MeanField(network(), prior_std=0.5, initial_std=0.2, samples_per_pass=k)
    elbo = ELBO(data_loss, n, memory=memory, temperature=0.7, warmup=lambda t: (t + 1) / 4)
    value = elbo(method, x, LABELS, samples=S, step=1)
    (2 * value).backward()  # whatever comes after the loss must reach the gradient

    reference = MeanField(network(), prior_std=0.5, initial_std=0.2)
    outputs = reference(x, samples=range(S), step=1)
    expected = data_loss(outputs, LABELS, S, Alone()).mean() + 0.7 * 0.5 * reference.penalty() / n
    (2 * expected).backward()
    assert value.item() == pytest.approx(expected.item(), rel=1e-12)
    assert elbo.parts.data + elbo.parts.penalty == pytest.approx(expected.item(), rel=1e-12)
    for got, want in zip(method.parameters(), reference.parameters(), strict=True):
        assert torch.allclose(got.grad, want.grad, rtol=1e-11, atol=1e-14)


def test_masked_items_count_for_nothing():
    x = torch.randn(B, 3).double()
    weight = torch.tensor([1, 1, 1, 1, 1, 0, 0]).double()
    method = MeanField(network())
    elbo = ELBO(ExpectedNLL(Categorical()), 50)
    masked = elbo(method, x, LABELS, samples=S, weight=weight, count=5)
    assert masked.item() == pytest.approx(elbo(method, x[:5], LABELS[:5], samples=S).item())


class Fake(Collectives):
    """A rank of a sample group whose other ranks' statistics were recorded beforehand."""

    name = "fake"

    def __init__(self, size, rank):
        self.sample_size, self.sample_rank = size, rank

    def group_sum_(self, x): ...
    def group_max_(self, x): ...
    def group_gather(self, x, counts): ...
    def data_sum_(self, x): ...
    def world_sum_(self, x): ...


def test_the_approximation_averages_the_losses_of_ranks():
    """exact = false is what the paper does: each rank's loss of its own samples, then the mean."""
    x, p = torch.randn(B, 3).double(), 2
    loss = PredictiveNLL(Categorical())
    got, want = None, None
    for rank in range(p):
        method = MeanField(network(), initial_std=0.5)
        elbo = ELBO(loss, 50, Fake(p, rank), exact=False, temperature=0.0, memory="keep")
        elbo(method, x, LABELS, samples=S, step=0).backward()
        got = method.mean.grad if got is None else got + method.mean.grad
        method = MeanField(network(), initial_std=0.5)
        own = share(S, p, rank)
        own_loss = loss(method(x, samples=own, step=0), LABELS, len(own), Alone()).mean() / p
        own_loss.backward()
        want = method.mean.grad if want is None else want + method.mean.grad
    assert torch.allclose(got, want, rtol=1e-12)


def test_streaming_a_non_linear_loss_is_refused():
    with pytest.raises(UsageError, match="recompute"):
        ELBO(PredictiveNLL(Categorical()), 10, memory="stream")


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("expected_nl", {}, "did you mean 'expected_nll'"),
        ("expected_nll", {"likelihood": "gauss"}, "did you mean 'gaussian'"),
        ("expected_nll", {"likelihood": "gaussian", "sd": 1}, "sd"),
        ("expected_nll", {"likelihood": "gaussian", "std": 0}, "got 0"),
    ],
)
def test_wrong_names_are_refused(name, arguments, words):
    with pytest.raises(UsageError, match=words):
        make(name, "classification", arguments)


@pytest.mark.mpi(ranks=[1, 2, 3, 4], timeout=120, unit="s")
def test_any_split_gives_the_sequential_loss(mpi_ranks, comm):
    """Losses, uneven shares, grids, memory modes and transports, all against one process."""
    from hpcsamp.collectives import FlatGradient, choose
    from hpcsamp.topology import init

    axes = {1: ["world"], 2: ["world", "none"], 3: ["world", "none"], 4: ["world", 2, "none"]}
    g = torch.Generator().manual_seed(5)
    x, y = torch.randn(12, 3, generator=g).double(), torch.randint(0, C, (12,), generator=g)
    for axis in axes[mpi_ranks]:
        topology = init(axis)
        d = topology.data_rank
        part = slice(12 * d // topology.data_size, 12 * (d + 1) // topology.data_size)
        for transport in ("mpi", "horovod"):
            if transport == "horovod" and axis != "world":
                continue  # one Horovod per process
            collectives = choose(topology, transport)
            for (name, memory), samples in itertools.product(MODES, (4, 5, 16)):
                loss = make(name, "classification")
                serial = MeanField(network(), prior_std=0.5, initial_std=0.3)
                method = copy.deepcopy(serial)
                expected = ELBO(loss, 40)(serial, x, y, samples=samples, step=2)
                expected.backward()
                gradient = FlatGradient(method.parameters())
                value = ELBO(loss, 40, collectives, memory=memory)(
                    method, x[part], y[part], samples=samples, step=2
                )
                value.backward()
                collectives.reduce_gradient_(gradient.collect())
                mean = collectives.mean_over_data(value)
                case = (axis, transport, name, memory, samples)
                assert mean.item() == pytest.approx(expected.item(), rel=1e-12), case
                want = torch.cat([p.grad for p in serial.parameters()])
                assert (gradient.flat - want).norm() / want.norm() < 1e-12, case
