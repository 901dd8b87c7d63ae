"""Learned observation noise: its value, its start, and that it has neither prior nor posterior."""

from __future__ import annotations

import json
import math
import re
import shutil

import numpy as np
import pytest
import torch
from torch import nn

import hpcsamp as hs
from hpcsamp import losses, methods, streams
from hpcsamp.collectives import Alone
from hpcsamp.errors import UsageError
from hpcsamp.methods import METHODS
from hpcsamp.run import checkpoint

ITEMS = 64


def normal(*shape, seed):
    generator = streams.torch_generator("cpu", seed, streams.Purpose.SYNTHETIC)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


X = normal(ITEMS, 3, seed=1)
Y = X @ normal(3, 2, seed=2) + torch.tensor([0.3, 2.0]).double() * normal(ITEMS, 2, seed=3)


def network(member=None):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(member or 0)
        return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2)).double()


def wrapped(member=None, y=Y, net=network):
    return hs.LearnedNoise(net(member), y.std(0), y.mean(0)).double()


def made(name, y=Y, net=network, samples=3, **arguments):
    method = METHODS[name].create(
        lambda member: wrapped(member, y, net), samples, range(samples), seed=5, **arguments
    )
    method.begin(ITEMS, 40, 4)
    return method


def train(method, y=Y, steps=40, lr=1e-2, samples=3):
    """Train on batches of all items."""
    own = method.optimizers
    kind = own.get("SGHMC") or own.get("Adam", torch.optim.Adam)
    optimizer = hs.distribute(kind(method.parameters(), lr=lr), Alone(), method)
    loss = losses.ELBO(losses.ExpectedNLL(losses.LearnedGaussian()), ITEMS)
    for _ in range(steps):
        value = loss(method, X, y, samples=samples)
        value.backward()
        optimizer.step()
        optimizer.zero_grad()
    return value.item()


def predicted(method, y=Y, samples=None):
    """``(S, B, 2)`` means and standard deviations."""
    count = method.prediction_samples(samples)
    with torch.no_grad(), method.predicting():
        outputs = method(X, samples=method.prediction_share(count, 1, 0), step=0)
    return losses.LearnedGaussian().mean_and_std(outputs, y)


def test_the_noise_of_a_member_is_that_of_maximum_likelihood():
    """Of a linear model: the root of the mean squared residual of least squares, per output."""
    method = made("ensemble", net=lambda _: nn.Linear(3, 2).double())
    a = torch.cat([X, torch.ones(ITEMS, 1).double()], 1)
    best = torch.linalg.lstsq(a, (Y - Y.mean(0)) / Y.std(0)).solution
    rms = (Y - Y.mean(0) - a @ best * Y.std(0)).square().mean(0).sqrt()
    parts = method.layout.named(method.weights.detach())
    parts["network.weight"].copy_(best[:3].T)
    parts["network.bias"].copy_(best[3])
    parts["log_std"].copy_((rms / Y.std(0)).log() + torch.tensor([[0.0], [0.2], [-0.1]]))
    _, std = predicted(method)
    assert np.allclose(std[0], rms, rtol=1e-3)
    loss = losses.ELBO(losses.ExpectedNLL(losses.LearnedGaussian()), ITEMS)
    loss(method, X, Y, samples=3).backward()
    found = method.layout.named(method.weights.grad * method.gradient_scale)
    assert found["network.weight"].abs().max() < 1e-9
    wanted = 1 - torch.tensor([0.0, -0.4, 0.2]).exp()
    assert np.allclose(found["log_std"], wanted[:, None].expand(3, 2), atol=1e-3)


def test_the_noise_is_that_of_the_evidence_lower_bound():
    """Of one weight, whose posterior is normal: ``std^2 = mean_b (y - x m)^2 + x^2 v``."""
    x, y, prior, noise2 = X[:, :1], Y[:, :1], 0.7, 1.0
    for _ in range(200):
        v = 1 / (x.square().sum() / noise2 + 1 / prior**2)
        m = v * (x * y).sum() / noise2
        noise2 = (y - x * m).square().mean() + x.square().mean() * v
    net = hs.LearnedNoise(nn.Linear(1, 1, bias=False), std=1.0).double()
    method = hs.MeanField(net, prior_std=prior, antithetic=True, seed=1)
    with torch.no_grad():
        method.mean.fill_(m)
        method.log_std.fill_(0.5 * v.log())
        method.fixed.fill_(0.5 * noise2.log())
    loss = losses.ELBO(losses.ExpectedNLL(losses.LearnedGaussian()), ITEMS)
    loss(method, x, y, samples=400).backward()
    for p in (method.mean, method.log_std, method.fixed):
        assert abs(p.grad.item()) < 5e-3
    with torch.no_grad():
        method.fixed.add_(0.1)
    method.zero_grad()
    loss(method, x, y, samples=400, step=1).backward()
    assert method.fixed.grad.item() == pytest.approx(1 - math.exp(-0.2), abs=5e-3)


@pytest.mark.parametrize("name", METHODS)
def test_training_does_not_depend_on_the_units_of_the_targets(name):
    """Nor on whether they were standardised before: noise and means follow in proportion."""
    arguments = {"start": 0.2, "rank": 2} if name == "swag" else {}
    standard = (Y - Y.mean(0)) / Y.std(0)
    found = []
    for y in (Y, 1e6 * Y, 1e-9 * Y - 3e-9, standard):
        method = made(name, y, prior_std=0.5, **arguments)
        train(method, y)
        mean, std = predicted(method, y)
        found.append([(mean - y.mean(0)) / y.std(0), std / y.std(0)])
    assert (found[0][1].log().abs() > 1e-3).all()  # it is learnt
    for other in found[1:]:
        for one, two in zip(found[0], other, strict=True):
            assert torch.allclose(one, two, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", METHODS)
def test_the_start_is_the_scale_of_the_targets(name):
    mean, std = predicted(made(name))
    assert std.flatten(0, 1) == pytest.approx(Y.std(0).expand(std[..., 0].numel(), 2), rel=1e-4)
    assert (mean.mean(0) - Y.mean(0)).abs().max() < 2 * Y.std(0).max()


@pytest.mark.parametrize("name", METHODS)
def test_every_memory_mode_has_the_same_gradient(name):
    gradients = []
    for memory, at_once in (("keep", 1), ("stream", 1), ("recompute", 1), ("keep", 3)):
        method = made(name, samples_per_pass=at_once)
        loss = losses.ELBO(losses.make("expected_nll", "regression"), ITEMS, memory=memory)
        loss(method, X, Y, samples=3, step=2).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in method.parameters()]))
    for other in gradients[1:]:
        assert torch.allclose(other, gradients[0], rtol=1e-8, atol=1e-12)


class Marked(nn.Module):
    """A network that marks a parameter of its own as having no uncertainty."""

    deterministic = ("gain",)

    def __init__(self, member=None):
        super().__init__()
        self.inner = network(member)
        self.gain = nn.Parameter(torch.full((), 1.7).double())

    def forward(self, x):
        return self.gain * self.inner(x)


@pytest.mark.parametrize("name", METHODS)
def test_what_is_marked_has_neither_prior_nor_draws(name):
    """As the bare network without it: penalty, densities of draws, noise of chains."""
    prior = {"prior_std": 0.5}
    arguments = prior | ({"anchored": True} if name == "ensemble" else {})

    def create(net):
        method = METHODS[name].create(net, 3, range(3), seed=5, **arguments)
        method.begin(ITEMS, 40, 4)
        return method

    method, bare = create(Marked), create(network)
    if name == "ensemble":
        for one in (method, bare):
            one.anchors.copy_(one.weights.detach() - 0.5)
    assert method.penalty().item() == pytest.approx(bare.penalty().item(), rel=1e-9)
    assert method.penalty().item() > 0
    if name in ("mean_field", "last_layer"):
        assert method.mean.shape == bare.mean.shape
        assert method.log_ratio(range(3), 1).tolist() == pytest.approx(
            bare.log_ratio(range(3), 1).tolist(), rel=1e-9
        )
    value = losses.ELBO(losses.ExpectedNLL(losses.Gaussian()), ITEMS)(method, X, Y, samples=3)
    value.backward()
    assert all(p.grad.abs().sum() > 0 for p in method.parameters())  # it is optimised
    if isinstance(method, methods.Chains):
        (span,) = [v.place for v in method.layout.variables if not v.random]
        rows = method.noise(method.weights.detach())
        assert (rows[:, span] == 0).all()
        assert (rows != 0).sum() == rows.numel() - 3
    if isinstance(method, methods.SWAG):
        generator = torch.Generator().manual_seed(1)
        for step in range(method._times.start, method._times.stop):
            with torch.no_grad():
                method.weights.add_(torch.randn(method.weights.shape, generator=generator))
            method.step = step
            method.after_step()
        method.prediction_share(6, 1, 0)
        draws = method.prediction_rows(range(6))
        (span,) = [v.place for v in method.layout.variables if not v.random]
        means = method.mean.repeat_interleave(2, 0)
        assert torch.equal(draws[:, span], means[:, span])
        assert ((draws != means).sum(1) == draws.shape[1] - 1).all()


def test_the_body_of_a_last_layer_still_runs_once_a_step():
    seen = []

    class Net(nn.Sequential):
        def forward(self, x):
            seen.append(len(x))
            return super().forward(x)

    net = Net(*network())
    method = methods.LastLayer(hs.LearnedNoise(net, Y.std(0)).double(), layer="2", seed=4)
    twin = hs.MeanField(
        hs.LearnedNoise(network(), Y.std(0)).double(),
        bayesian=lambda name: name.startswith("network.2"), seed=4,
    )  # fmt: skip
    found = method(X, samples=range(3), step=1)
    assert torch.allclose(found, twin(X, samples=range(3), step=1), rtol=1e-9)
    loss = losses.ELBO(losses.ExpectedNLL(losses.LearnedGaussian()), ITEMS)
    for _ in range(2):  # once to find out that samples may share a pass
        seen.clear()
        loss(method, X, Y, samples=16).backward()
    assert seen == [ITEMS]


def test_a_torch_blue_network_keeps_its_own_priors_in_a_wrapper():
    from torch_blue.vi import VILinear

    def layer():
        torch.manual_seed(2)
        return VILinear(3, 2).double()

    bare, method = hs.MeanField(layer()), hs.MeanField(hs.LearnedNoise(layer(), Y.std(0)).double())
    assert method.penalty().item() == pytest.approx(bare.penalty().item(), rel=1e-12)
    assert method.mean.shape == bare.mean.shape
    found = losses.LearnedGaussian().mean_and_std(method(X, samples=range(2), step=0), Y)
    scaled = bare(X, samples=range(2), step=0) * Y.std(0)
    assert torch.allclose(found[0], scaled, rtol=1e-9)
    assert found[1][0].detach() == pytest.approx(Y.std(0).expand(ITEMS, 2), rel=1e-4)


def test_half_precision_keeps_the_digits_of_targets_far_from_zero():
    net = hs.LearnedNoise(network().bfloat16(), std=0.5, mean=1000.0)
    y = net(X.bfloat16())
    assert y.dtype == torch.float32
    assert len((y[:, :2] - 1000).unique()) > ITEMS  # bfloat16 has steps of 8 there


def test_a_mean_far_from_zero_does_not_hide_that_samples_may_not_share_a_batch():
    class Whole(nn.Module):
        """The targets behind the mask depend on the size of the batch."""

        def __init__(self):
            super().__init__()
            torch.manual_seed(3)
            self.layers = nn.Sequential(nn.Dropout(0.5), nn.Linear(3, 2)).double()

        def forward(self, x):
            y = self.layers(x)
            return y * (1 + 0.1 * len(y))

    for mean in (0.0, 1e4):
        method = methods.MCDropout(hs.LearnedNoise(Whole(), 1.0, mean).double())
        at_once = method.forward(X, range(3))  # a call would refuse the module by itself
        alone = [method.forward(X, range(s, s + 1)) for s in range(3)]
        assert torch.allclose(at_once, torch.cat(alone), rtol=1e-12)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: hs.LearnedNoise(network(), std=0), "std greater than 0"),
        (lambda: hs.LearnedNoise(network(), std=[1.0, math.nan]), "must be finite"),
        (
            lambda: hs.LearnedNoise(network(), std=[1.0, 2.0], mean=[0.0] * 3),
            "values of std, but 3",
        ),
        (lambda: hs.LearnedNoise(network(), std=[1.0] * 3)(X), "3 standard dev.*has 2 outputs"),
        (
            lambda: losses.LearnedGaussian().log_prob(network()(X)[None], Y),
            "wrap the network in hs.LearnedNoise",
        ),
        (
            lambda: losses.make("crps", "regression", {}, {"name": "learned_gaussian"}),
            "reads 2 outputs for each value, but crps reads one",
        ),
    ],
)
def test_what_does_not_fit_is_refused(make, words):
    with pytest.raises(UsageError, match=words):
        make()


def test_the_default_learns_its_noise_and_a_std_fixes_it():
    assert type(losses.make_likelihood("regression")) is losses.LearnedGaussian
    assert losses.make_likelihood("regression", likelihood={"std": 0.3}).std == 0.3
    assert losses.make_likelihood("regression", likelihood={"name": "gaussian"}).std == 1.0
    assert losses.defaults("alpha_divergence", "regression", {}) == (
        {"alpha": 0.5}, {"name": "learned_gaussian"},
    )  # fmt: skip
    assert losses.defaults("crps", "regression", {}) == ({"fair": True, "alpha": 1.0}, {})


@pytest.fixture(scope="module")
def diabetes(commands, tmp_path_factory):
    """Runs on scikit-learn's diabetes, whose targets are 152 +- 77: the default, and a fixed noise
    of 1, as version 1 had it, too.
    """
    from sklearn.datasets import load_diabetes

    place = tmp_path_factory.mktemp("diabetes")
    x, y = load_diabetes(return_X_y=True)
    np.savez(place / "set.npz", x=x, y=y)
    (place / "run.toml").write_text(f"""
task = "regression"
data = {{ path = "{place / "set"}" }}
model = {{ name = "mlp" }}
training = {{ evaluate_every = 5 }}
""")
    fixed = "--set=likelihood.name=gaussian"
    done = commands(
        1,
        ["ingest", "npz", place / "set.npz", "--out", place / "set"],
        ["train", place / "run.toml", "--output", place / "default"],
        ["evaluate", place / "default"],
        ["train", place / "run.toml", "--output", place / "fixed", fixed],
        ["evaluate", place / "fixed"],
        timeout=120,
    )
    assert done.code == 0, done.err
    return place, done


def evaluation(run):
    return json.loads((run / "evaluation" / "test.json").read_text())


def test_the_default_is_right_where_targets_are_as_they_are(diabetes):
    place, _ = diabetes
    found = evaluation(place / "default")
    assert found["metrics"]["nll"] < 5.75  # that of the mean and standard deviation alone: 5.746
    assert 0.8 < found["metrics"]["coverage_90"] <= 1
    assert found["noise"]["source"] == "learned"
    assert 40 < found["noise"]["std"] < 80
    assert "doubt" not in found
    assert 'name = "learned_gaussian"' in (place / "default" / "config.toml").read_text()


def test_an_evaluation_that_is_worse_than_none_says_so_once(diabetes):
    place, done = diabetes
    words = "90 % intervals contain .* of the values; the NLL of .* is worse than the 5.7"
    lines = [line for line in (done.out + done.err).splitlines() if "intervals contain" in line]
    assert len(lines) == 2  # of training's two evaluations the first, and that of evaluate
    for line, split in zip(sorted(lines), ("test", "valid"), strict=True):
        assert re.search(f"warning: {split}: {words}", line)
    found = evaluation(place / "fixed")
    assert found["noise"] == {"source": "fixed", "std": 1.0}
    assert found["doubt"] in done.err


def test_a_run_of_version_1_is_evaluated_with_the_noise_it_was_trained_with(diabetes, hpcsamp):
    place, _ = diabetes
    run = place / "old"
    (run / "checkpoints").mkdir(parents=True)
    newest = checkpoint.latest(place / "fixed" / "checkpoints")
    content = checkpoint.read(newest) | {"version": 1}
    del content["run"]
    assert content["config"].pop("likelihood") == {"name": "gaussian", "std": 1.0}
    content["config"]["loss"]["arguments"] = {}
    torch.save(content, run / "checkpoints" / newest.name)
    shutil.copy(place / "run.toml", run / "config.toml")
    done = hpcsamp(1, "evaluate", run)
    assert done.code == 0, done.err
    told = done.err.count("format version 1; the draws of weights have changed")
    assert told == 1
    found, wanted = evaluation(run), evaluation(place / "fixed")
    assert found["noise"] == wanted["noise"]
    assert found["metrics"] == wanted["metrics"]
