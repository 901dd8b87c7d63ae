"""SWAG: moments are those of the path, draws have their covariance, on any grid."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from hpcsamp import losses
from hpcsamp.collectives import Alone, distribute
from hpcsamp.config import load
from hpcsamp.errors import UsageError
from hpcsamp.grid import init
from hpcsamp.methods import SWAG
from hpcsamp.tasks.outputs import local_outputs, outputs_of
from hpcsamp.training.loop import train


def network(member: int) -> nn.Module:
    torch.manual_seed(member)
    return nn.Linear(2, 2).double()


def walked(steps, per_epoch, offset=0.0, **settings):
    """A method whose weights walked at random, and where they were after each step."""
    method = SWAG(network, 2, **settings)
    method.begin(10, steps, per_epoch)
    path, rng = [], np.random.default_rng(5)
    for step in range(1, steps + 1):
        noise = torch.from_numpy(rng.normal(size=method.weights.shape)).to(method.weights.dtype)
        method.weights.data = 0.7 * (method.weights.data - offset) + noise + offset
        method.step = step
        method.after_step()
        path.append(method.weights.detach().double().numpy().copy())
    return method, np.array(path)


def test_the_moments_are_those_of_the_collected_weights():
    """Against algorithm 1 of Maddox et al. 2019, with their mean of squares."""
    method, path = walked(41, 5, start=0.5, every=4, rank=3)
    collected = path[[24, 28, 32, 36, 40]]  # after steps 25, 29, ...: the last is the run's last
    mean = square = np.zeros_like(path[0])
    deviations = []
    for n, w in enumerate(collected):
        mean = (n * mean + w) / (n + 1)
        square = (n * square + w**2) / (n + 1)
        deviations.append(w - mean)
    assert int(method.collected) == 5
    assert np.allclose(method.mean, mean, rtol=1e-12)
    assert np.allclose(method.squares / 5, square - mean**2, rtol=1e-9)
    kept = method.deviations.numpy()
    assert np.allclose(kept[:, [2, 0, 1]], np.stack(deviations[2:], axis=1), rtol=1e-12)


@pytest.mark.parametrize("rank", [0, 4])
def test_draws_have_the_mean_and_the_covariance_of_the_formula(rank):
    method, _ = walked(60, 5, start=0.5, every=3, rank=rank)
    draws = 8000
    own = method.prediction_share(draws, 1, 0)
    assert own == range(draws)
    rows = method.prediction_rows(own).numpy()[draws // 2 :]  # those of the second chain
    covariance = np.diag(method.squares[1].numpy() / 10)
    if rank:
        d = method.deviations[1].numpy()
        covariance = (covariance + d.T @ d / (rank - 1)) / 2
    std = np.sqrt(np.diag(covariance))
    assert (np.abs(rows.mean(0) - method.mean[1].numpy()) / std).max() < 0.06
    assert (np.abs(np.cov(rows.T) - covariance) / np.outer(std, std)).max() < 0.08
    assert np.array_equal(method.prediction_rows(range(4500, 4501))[0], rows[500])  # counted


def test_a_chunk_of_samples_is_drawn_once_for_several_batches(monkeypatch):
    method, _ = walked(60, 5, start=0.5, every=3, rank=4, samples_per_pass=3)
    own = method.prediction_share(8, 1, 0)
    batches = [torch.randn(n, 2).double() for n in (4, 3, 5)]
    drawn = []
    draw = method._draw
    monkeypatch.setattr(method, "_draw", lambda sample: (drawn.append(sample), draw(sample))[1])
    group = Alone()
    inputs = [(x, torch.arange(len(x))) for x in batches]
    together = outputs_of(method, inputs, 8, group)
    assert drawn[-8:] == list(own)  # the observer had some before
    drawn.clear()
    each = torch.cat([local_outputs(method, x, 8, group) for x in batches], 1)
    assert len(drawn) == 24
    assert torch.equal(together, each)
    method.mean[0] += 1  # nothing is kept beyond
    assert not torch.equal(outputs_of(method, inputs, 8, group), each)


def test_a_far_mean_does_not_swallow_the_spread():
    method, path = walked(200, 5, offset=1e4, start=0.5, every=5, rank=0)
    method32, path32 = SWAG(network, 2, start=0.5, every=5, rank=0).float(), path.astype(np.float32)
    method32.begin(10, 200, 5)
    for step, w in enumerate(path32, start=1):
        method32.weights.data = torch.from_numpy(w)
        method32.step = step
        method32.after_step()
    assert torch.allclose(method32.squares.double(), method.squares, rtol=0.02)


def test_constant_sgd_has_the_spread_that_theory_says():
    """A quadratic with gradients of known noise: the weights are an autoregressive process.

    ``w' = (1 - r) w + r e`` with ``r = lr * hessian`` and the mean ``e`` of a batch's targets has
    the stationary covariance ``r / (2 - r) * cov(e)`` (Mandt, Hoffman and Blei 2017, section 3,
    for small r ``lr / 2 * ...``).
    """
    lr, batch, steps, scale = 0.3, 4, 6000, 0.8
    root = torch.tensor([[1.0, 0.0, 0.0], [0.8, 0.6, 0.0], [0.0, 0.3, 1.0]]).double()
    method = SWAG(
        lambda _: nn.Linear(1, 3, bias=False).double(), 1, start=0.1, every=1, rank=2500
    )  # fmt: skip
    method.begin(1000, steps, 100)
    optimizer = distribute(torch.optim.SGD(method.parameters(), lr), Alone(), method)
    loss = losses.ELBO(losses.ExpectedNLL(losses.Gaussian(scale)), 1000)
    g = torch.Generator().manual_seed(3)
    x = torch.ones(batch, 1).double()
    for _ in range(steps):
        y = torch.randn(batch, 3, generator=g, dtype=torch.float64) @ root.T
        loss(method, x, y, samples=1).backward()
        optimizer.step()
        optimizer.zero_grad()
    r = lr / scale**2
    exact = (root @ root.T * r / (2 - r) / batch).numpy()
    d = method.deviations[0].numpy()
    found = (np.diag(method.squares[0].numpy() / int(method.collected)) + d.T @ d / 2499) / 2
    assert np.allclose(np.diag(found), np.diag(exact), rtol=0.12)
    halved = exact / 2 + np.diag(np.diag(exact)) / 2  # the diagonal half knows no correlation
    assert np.abs(found - halved).max() < 0.1 * exact.max()


def test_prediction_samples_are_shared_out_over_chains():
    method = SWAG(network, 3, range(1, 3))
    assert method.prediction_samples(None) == 32
    assert method.prediction_samples(7) == 7
    assert method.prediction_share(7, 2, 1) == range(2, 7)
    assert [method.place(s)[0] for s in range(2, 7)] == [0, 0, 1, 1, 1]
    assert torch.equal(method.prediction_rows(range(2, 3))[0], method.weights.detach()[0])
    with pytest.raises(UsageError, match=r"evaluation.samples = 2 is less than the 3 chains"):
        method.prediction_samples(2)


def test_how_often_is_an_epoch_or_as_often_as_the_rank_needs():
    def times(steps, per_epoch, **settings):
        method = SWAG(network, 1, **settings)
        method.begin(10, steps, per_epoch)
        return method._times

    assert times(100, 5, start=0.5) == range(55, 101, 5)
    assert times(100, 50, start=0.8, rank=5) == range(84, 101, 4)
    assert times(100, 50, start=0.0, every=20, rank=3) == range(20, 101, 20)


SETS = (
    "method.name=swag", "method.start=0.4", "method.every=3", "method.rank=3",
    "optimizer.name=SGD", "optimizer.lr=0.05", "optimizer.momentum=0.9", "schedule.name=none",
    "evaluation.samples=14",
)  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["method.start=1.0"], "method.start = 1.0"),
        (["method.start=-0.1"], "method.start = -0.1"),
        (["method.rank=1"], "method.rank = 1"),
        (["method.every=0"], "method.every = 0"),
        (["method.rank=10"], "rank = 10 needs 10 .* every 3 of the last 23 of 38 steps .* are 7"),
        (["evaluation.samples=4"], "evaluation.samples = 4 is less than the 6"),
        (["method.frequency=3"], "unknown key 'method.frequency'"),
    ],
)
def test_contradictions_are_refused(settings, message, small, tmp_path):
    config, topology = load(small, [*SETS, *settings]), init("world")
    with pytest.raises(UsageError, match=message) as found:
        train(config, topology, tmp_path / "run")
    assert "\n" not in str(found.value)
