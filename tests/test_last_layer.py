"""Last-layer method: the body runs once, the posterior is that of a linear model."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from hpcsamp import losses
from hpcsamp.collectives import Alone, distribute
from hpcsamp.errors import UsageError
from hpcsamp.methods import LastLayer, MeanField
from hpcsamp.models import ViT


def normal(*shape, seed=5):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


X, Y = normal(5, 3), normal(5, 2, seed=6)


class Net(nn.Module):
    """Counts the items that its body has evaluated."""

    def __init__(self, end=False):
        super().__init__()
        torch.manual_seed(2)
        self.body = nn.Sequential(nn.Linear(3, 6), nn.Tanh())
        self.head = nn.Linear(6, 2)
        self.end, self.seen = end, []

    def forward(self, x):
        self.seen.append(len(x))
        y = self.head(self.body(x))
        return y * 2 if self.end else y


def twin(net, **arguments):
    """The mean-field method with the same random weights, which evaluates all layers per sample."""
    net = copy.deepcopy(net)
    return MeanField(net, bayesian=lambda n: n.startswith("head"), **arguments)


@pytest.mark.parametrize("end", [False, True])
@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("memory", ["keep", "stream", "recompute"])
def test_outputs_and_gradients_are_those_of_whole_evaluations(memory, stacked, end):
    """Also where the module goes on after the layer, which rules the short way out."""
    net = Net(end).double()
    arguments = {"initial_std": 0.3, "seed": 4, "antithetic": True}
    methods = LastLayer(net, **arguments), twin(net, **arguments)
    x = torch.stack([X, 2 * X, X + 1, X - 1]) if stacked else X
    found = []
    for method in methods:
        loss = losses.ELBO(
            losses.make("expected_nll", "regression", likelihood={"std": 1.0}), 10, memory=memory
        )
        loss(method, x, Y, samples=4, step=3, stacked=stacked).backward()
        found.append(torch.cat([p.grad for p in method.parameters()]))
    assert [p.shape for p in methods[0].parameters()] == [p.shape for p in methods[1].parameters()]
    assert torch.allclose(*found, rtol=1e-9, atol=1e-12)
    a, b = (m(X, samples=range(2, 7), step=1) for m in methods)
    assert torch.allclose(a, b, rtol=1e-9)


@pytest.mark.parametrize(("memory", "passes"), [("keep", 1), ("stream", 1), ("recompute", 2)])
def test_the_body_runs_once_a_step_not_once_a_sample(memory, passes):
    net = Net().double()
    method = LastLayer(net, seed=4)
    loss = losses.ELBO(
        losses.make("expected_nll", "regression", likelihood={"std": 1.0}), 10, memory=memory
    )
    for _ in range(2):  # once to find out that samples may share a pass
        net.seen.clear()
        loss(method, X, Y, samples=16).backward()
    assert net.seen == [5] * passes
    with torch.no_grad(), method.predicting():
        for _ in range(2):
            net.seen.clear()
            method(X, samples=range(32))
    assert net.seen == [5]


def test_positions_and_transformers():
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    other = MeanField(
        copy.deepcopy(net), bayesian=lambda n: n.startswith("2."), initial_std=0.3, seed=1
    )
    method, x = LastLayer(net, initial_std=0.3, seed=1), normal(2, 5, 3)
    assert torch.allclose(method(x, samples=range(3)), other(x, samples=range(3)), rtol=1e-12)
    views = torch.stack([x, -x, 2 * x])
    a, b = (m(views, samples=range(3), stacked=True) for m in (method, other))
    assert torch.allclose(a, b, rtol=1e-12)
    vit = ViT((1, 4, 4), 3, patch=2, width=8, heads=2, layers=1, hidden=8, checkpoint=True)
    method = LastLayer(vit, seed=1)
    assert method.layer == "head"
    method(torch.zeros(2, 1, 4, 4), samples=range(2)).sum().backward()
    assert method.fixed.grad.abs().sum() > 0


def test_the_posterior_of_a_linear_model_is_reached():
    """Mean-field optimum on fixed features: the exact posterior where those are orthogonal."""
    items, noise, prior = 40, 0.5, 1.5
    features = torch.linalg.qr(normal(items, 4, seed=1))[0] * torch.tensor([3.0, 4.0, 6.0, 5.0])
    y = features @ normal(4, 1, seed=2) + noise * normal(items, 1, seed=3)
    body = nn.Linear(4, 4, bias=False).double()
    body.weight.data = torch.linalg.qr(normal(4, 4, seed=4))[0]
    body.requires_grad_(False)  # frozen
    net = nn.Sequential(body, nn.Linear(4, 1, bias=False).double())
    x = features @ body.weight.T.inverse()
    method = LastLayer(net, prior_std=prior, initial_std=0.1, seed=3, antithetic=True)
    assert method.fixed is None
    optimizer = torch.optim.Adam(method.parameters(), lr=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 600)
    distribute(optimizer, Alone(), method)
    loss = losses.ELBO(losses.ExpectedNLL(losses.Gaussian(std=noise)), items)
    tail = []
    for step in range(600):
        loss(method, x, y, samples=64).backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if step >= 300:
            tail.append(torch.stack([method.mean.detach(), method.log_std.detach()]))
    mean, log_std = torch.stack(tail).mean(0)
    precision = features.T @ features / noise**2 + torch.eye(4) / prior**2
    exact = torch.linalg.solve(precision, features.T @ y[:, 0] / noise**2)
    assert (mean - exact).norm() < 0.01 * exact.norm()
    assert torch.allclose(log_std.exp(), precision.inverse().diagonal().sqrt(), rtol=0.03)


def test_layers_are_found_by_name_or_order():
    class Backwards(nn.Module):
        def __init__(self):
            super().__init__()
            self.head, self.body = nn.Linear(4, 2), nn.Linear(3, 4)

        def forward(self, x):
            return self.head(self.body(x))

    x = X.float()
    with pytest.raises(UsageError, match=r"'body' is .* calls 'head' after it"):
        LastLayer(Backwards())(x, samples=range(2))
    assert LastLayer(Backwards(), layer="head")(x, samples=range(2)).shape == (2, 5, 2)
    # an earlier layer may be asked for: all that follows is evaluated for each sample
    out = LastLayer(Backwards(), layer="body", initial_std=0.5)(x, samples=range(2))
    assert not torch.allclose(out[0], out[1])
    with pytest.raises(UsageError, match=r"method.layer = 'heda'; choose from 'head', 'body'"):
        LastLayer(Backwards(), layer="heda")
    with pytest.raises(UsageError, match=r"has no nn\.Linear"):
        LastLayer(nn.Conv2d(1, 1, 1))


def test_an_unknown_layer_is_one_line(hpcsamp, small, tmp_path):
    sets = ["--set=method.name=last_layer", "--set=method.layer=heda"]
    done = hpcsamp(2, "train", small, "--output", tmp_path / "run", *sets)
    assert done.code == 2
    assert len(done.errors) == 1
    assert "method.layer = 'heda'" in done.errors[0]
