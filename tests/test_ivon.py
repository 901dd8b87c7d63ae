"""IVON: the published update, the optimum of a linear model, refusals."""

from __future__ import annotations

import pytest
import torch
from test_memory import parts, run
from test_truth import NOISE, PRIOR, N, data
from torch import nn

from hpcsamp.collectives import Alone, distribute
from hpcsamp.errors import UsageError
from hpcsamp.losses import ELBO, ExpectedNLL, Gaussian
from hpcsamp.methods import Ivon, MeanField, flat_sums, normal
from hpcsamp.planning.dry_run import LargestMemory

STD = 0.3  # initial


def made(network, **settings):
    """A method and its optimiser for the data of this file."""
    method = Ivon(network.double(), prior_std=PRIOR, initial_std=STD, seed=2, **settings)
    method.begin(N, 1, 1)
    adam = method.optimizers["Adam"](method.parameters(), lr=0.02)
    return method, distribute(adam, Alone(), method)


def train(method, optimizer, steps, samples=16):
    """Train with a learning rate that falls to zero."""
    x, y = data()
    loss = ELBO(ExpectedNLL(Gaussian(NOISE)), N)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        loss(method, x, y, samples=samples).backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()


def test_the_fitted_posterior_is_the_closed_form_optimum():
    """That of mean-field VI; see test_truth."""
    x, y = data()
    precision = x.T @ x / NOISE**2 + torch.eye(4).double() / PRIOR**2
    mean = torch.linalg.solve(precision, x.T @ y / NOISE**2)[:, 0]
    std = precision.diagonal() ** -0.5
    method, optimizer = made(
        nn.Linear(4, 1, bias=False), lr=0.5, hessian_momentum=0.99, clip_radius=1.0
    )
    train(method, optimizer, 600)
    assert ((method.mean - mean).abs() / mean.abs().max()).max() < 0.01
    assert ((method.log_std.exp() - std).abs() / std).max() < 0.03


@pytest.mark.parametrize(("b1", "prior"), [(0.0, PRIOR), (0.9, float("inf"))])
def test_steps_are_those_of_the_published_algorithm(b1, prior):
    """Shen et al. 2024, Algorithm 1, line by line, with gradients by autograd.

    There the momentum is of the data term alone and here of the whole gradient, which is the same
    without a momentum or without the gradient of a prior.
    """
    rate, b2, clip, samples = 0.3, 0.9, 0.5, 5
    x, y = data()
    rules = [{"pattern": "*", "std": prior}]
    method, optimizer = made(
        nn.Linear(4, 1, bias=False), lr=rate, momentum=b1, hessian_momentum=b2,
        clip_radius=clip / (N * STD**2), priors=rules,
    )  # fmt: skip
    loss = ELBO(ExpectedNLL(Gaussian(NOISE)), N)
    delta = 1 / (N * prior**2)
    m, g = method.mean.detach().clone(), torch.zeros(4).double()
    h0 = 1 / (N * STD**2) - delta
    h, clipped = torch.full_like(m, h0), set()
    for t in range(1, 21):
        sigma = (N * (h + delta)) ** -0.5
        noise = method.noise(method.step, range(samples))
        draws = (m + sigma * noise).requires_grad_()
        nll = ((draws @ x.T - y[:, 0]) ** 2 / (2 * NOISE**2)).mean(1).sum() / samples
        (each,) = torch.autograd.grad(nll, draws)
        hat_g = each.sum(0)
        hat_h = (each * (draws.detach() - m)).sum(0) / sigma**2
        g = b1 * g + (1 - b1) * hat_g
        h = b2 * h + (1 - b2) * hat_h + 0.5 * (1 - b2) ** 2 * (hat_h - h) ** 2 / (h + delta)
        step = (g / (1 - b1**t) + delta * m) / (h + delta)
        clipped |= set((step.abs() > clip).tolist())
        m = m - rate * (h0 + delta) * step.clamp(-clip, clip)

        loss(method, x, y, samples=samples).backward()
        optimizer.step()
        optimizer.zero_grad()
        assert torch.allclose(method.mean, m, rtol=1e-12, atol=0)
        assert torch.allclose(method.log_std.exp(), (N * (h + delta)) ** -0.5, rtol=1e-12, atol=0)
    assert clipped == {True, False}


def test_deterministic_parameters_are_trained_by_adam():
    """One of them, next to random ones whose learning rate is too small to matter."""
    torch.manual_seed(1)
    first = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 1))
    method, optimizer = made(first, lr=1e-30, hessian_momentum=0.999999999999, bayesian=["1.*"])
    truth = nn.Parameter(method.fixed.detach().clone())
    adam = torch.optim.Adam([truth], lr=0.02)
    x, y = data()
    loss = ELBO(ExpectedNLL(Gaussian(NOISE)), N)
    for _ in range(3):
        loss(method, x, y, samples=2).backward()
        truth.grad = method.fixed.grad.clone()
        adam.step()
        optimizer.step()
        optimizer.zero_grad()
    assert torch.allclose(method.fixed, truth, rtol=1e-12, atol=0)


def test_what_it_cannot_be_trained_with_is_refused():
    network = nn.Linear(4, 1, bias=False).double()
    for key, value, words in (
        ("lr", 0.0, "method.lr = 0.0 must be greater than 0"),
        ("clip_radius", -1.0, "method.clip_radius = -1.0 must be"),
        ("momentum", 1.0, "method.momentum = 1.0 must be at least 0 and below 1"),
        ("hessian_momentum", -0.1, "method.hessian_momentum = -0.1"),
    ):
        with pytest.raises(UsageError, match=words):
            Ivon(network, **{key: value})
    method = Ivon(network)
    with pytest.raises(UsageError, match="'crps' combines all S samples"):
        method.check_loss("crps", False)
    with pytest.raises(UsageError, match=r"call method\.begin"):
        method.optimizers["Adam"](method.parameters())
    optimizer = distribute(torch.optim.Adam(method.parameters()), Alone(), method)
    x, y = data()
    ELBO(ExpectedNLL(Gaussian(NOISE)), N)(method, x, y, samples=2).backward()
    with pytest.raises(UsageError, match="trained by its own steps"):
        optimizer.step()
    method.log_std.requires_grad_(False)
    method.begin(N, 1, 1)
    with pytest.raises(UsageError, match="unfreeze both"):
        method.optimizers["Adam"](p for p in method.parameters() if p.requires_grad)


class Tanhs(nn.Module):
    """Layers of one size; the backward pass of the second-last may need weights of the last."""

    def __init__(self, late=False, width=64, layers=16):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(layers))
        self.late = late

    def forward(self, x):
        *others, last = self.layers
        for layer in others:
            x = torch.tanh(layer(x))
        if self.late:
            x = x + torch.tanh(x) @ last.weight.detach()
        return last(x)


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks that are small next to networks of this file."""
    monkeypatch.setattr(normal, "BLOCK", 1 << 12)
    monkeypatch.setattr(flat_sums, "BLOCK", 1 << 12)
    monkeypatch.setattr(flat_sums, "GRAIN", 1 << 12)
    monkeypatch.setattr("hpcsamp.methods.ivon.BLOCK", 1 << 12)


@pytest.mark.parametrize(("samples", "most"), [(1, 5.3), (2, 7.3)])
def test_a_step_holds_few_numbers_beside_its_weights(samples, most, small_blocks):
    """Means, deviations, momentum, both gradients, and more only for a second sample."""
    x, y = torch.randn(2, 128), torch.randn(2, 128)
    with LargestMemory() as memory:
        method = Ivon(Tanhs(width=128))
        n = method.mean.numel()
        method.begin(2, 1, 1)
        optimizer = distribute(method.optimizers["Adam"](method.parameters()), Alone(), method)
        loss, peaks = ELBO(ExpectedNLL(Gaussian(NOISE)), 2), []
        for _ in range(3):
            memory.largest = memory.live
            loss(method, x, y, samples=samples).backward()
            optimizer.step()
            peaks.append(memory.largest / 4 / n)
            optimizer.zero_grad()
    assert 5 < peaks[2] < most  # step 3, as all later ones but a few
    assert memory.live / 4 / n < 3.2  # between steps
    assert max(peaks) < max(most, 6.6)  # with the checks of the network


def test_the_plan_counts_these_numbers():
    config = run('loss.name="expected_nll"', "method.samples=1", method={"name": "ivon"})
    found = parts(config)
    held = ["means and log standard deviations", "their gradient", "state of Adam"]
    n = found[held[0]].bytes // 2
    assert sum(found[name].bytes for name in held) == 5 * n
    assert found["drawn weights and their noise"].bytes == 0
    assert found["examining the network, in a few steps"].bytes == n
    two = parts(run('loss.name="expected_nll"', "method.samples=2", method={"name": "ivon"}))
    assert two["drawn weights and their noise"].bytes == 2 * n


@pytest.mark.parametrize("late", [False, True])
def test_weights_that_are_still_needed_are_not_overwritten(late, small_blocks):
    """Gradients in the memory of the weights, against autograd."""
    method = MeanField(Tanhs(late, layers=3).double(), seed=3)
    x, y = torch.randn(2, 64).double(), torch.randn(2, 64).double()
    found = {}
    for memory in ("keep", "stream"):
        method.zero_grad()
        loss = ELBO(ExpectedNLL(Gaussian(NOISE)), 2, memory=memory)
        loss(method, x, y, samples=1, step=0).backward()
        found[memory] = torch.cat([p.grad for p in method.parameters()])
    assert torch.allclose(found["stream"], found["keep"], rtol=1e-12, atol=1e-14)


def test_several_losses_of_a_step_add_up():
    """Each has a gradient of its own; autograd.grad in between changes nothing."""
    method, optimizer = made(Tanhs(layers=2))
    x, y = torch.randn(2, 64).double(), torch.randn(2, 64).double()
    loss, parameters = ELBO(ExpectedNLL(Gaussian(NOISE)), 2), list(method.parameters())
    loss(method, x, y, samples=1).backward()
    once = torch.cat([p.grad for p in parameters]).clone()
    torch.autograd.grad(loss(method, x, y, samples=1), parameters)
    loss(method, x, y, samples=1).backward()
    assert torch.allclose(torch.cat([p.grad for p in parameters]), 2 * once, rtol=1e-12)
    optimizer.zero_grad()
    (3 * loss(method, x, y, samples=1)).backward()
    assert torch.allclose(torch.cat([p.grad for p in parameters]), 3 * once, rtol=1e-12)
