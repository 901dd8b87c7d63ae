"""Chains: their samples are those of the posterior, on any grid and after any interruption."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from hpcsamp import losses
from hpcsamp.collectives import Alone, distribute
from hpcsamp.config import load
from hpcsamp.errors import UsageError
from hpcsamp.grid import init
from hpcsamp.methods import Chains
from hpcsamp.methods.cycles import Cycles
from hpcsamp.streams import Purpose
from hpcsamp.streams.noise import fill
from hpcsamp.training.loop import train

N, NOISE, PRIOR = 40, 0.5, 0.7


def data():
    g = torch.Generator().manual_seed(11)
    x = torch.randn(N, 3, generator=g, dtype=torch.float64)
    x[:, 1] += 0.8 * x[:, 0]  # correlated inputs: correlated weights
    y = x @ torch.tensor([1.0, -2.0, 0.5]).double()
    return x, (y + NOISE * torch.randn(N, generator=g, dtype=torch.float64))[:, None]


def linear(member: int) -> nn.Module:
    torch.manual_seed(member)
    return nn.Linear(3, 1, bias=False).double()


def sampled(name, steps, lr, x, y, **settings):
    """Chains after a run with a constant step size, and all that their bank holds."""
    sampler = {"friction": settings.pop("friction")} if "friction" in settings else {}
    method = Chains(linear, samples_per_pass=32, prior_std=PRIOR, cycles=0, seed=3, **settings)
    method.begin(N, steps, steps)
    optimizer = distribute(
        method.optimizers[name](method.parameters(), lr, **sampler), Alone(), method
    )
    loss = losses.ELBO(losses.ExpectedNLL(losses.Gaussian(NOISE)), N, memory="keep")
    for _ in range(steps):
        loss(method, x, y, samples=method.samples).backward()
        optimizer.step()
        optimizer.zero_grad()
    return method, method.bank.flatten(0, 1)


@pytest.mark.parametrize(
    ("name", "lr", "settings"),
    [("SGLD", 0.02, {}), ("SGHMC", 0.004, {"friction": 0.2})],
)
def test_chains_sample_the_posterior_of_a_linear_model(name, lr, settings):
    """Mean and covariance in closed form; source: Bishop 2006, section 3.3."""
    x, y = data()
    precision = x.T @ x / NOISE**2 + torch.eye(3).double() / PRIOR**2
    covariance = torch.linalg.inv(precision)
    mean = (covariance @ x.T @ y / NOISE**2)[:, 0]
    method, found = sampled(
        name, 800, lr, x, y, samples=32, exploration=0.1, burn_in=0.3, snapshots=20, **settings
    )
    assert int(method.taken) == 20
    std = covariance.diagonal().sqrt()
    assert ((found.mean(0) - mean).abs() / std).max() < 0.1
    assert (found.std(0) / std - 1).abs().max() < 0.1
    assert found.T.corrcoef()[0, 1].item() == pytest.approx(
        (covariance[0, 1] / (std[0] * std[1])).item(), abs=0.1
    )


def test_the_spread_is_that_of_the_discrete_chain_to_a_hair():
    """With step size h the variance along an eigenvector of the Hessian a is 1 / (N a (1 - h a/2)).

    A single weight, whose Hessian per item is known; the noise that the steps add is thereby
    2 h / N, which is checked beside.
    """
    x, y = torch.ones(N, 1).double(), torch.zeros(N, 1).double()
    lr, hessian = 0.1, 1 / NOISE**2 + 1 / (N * PRIOR**2)
    method = Chains(
        lambda _: nn.Linear(1, 1, bias=False).double(), 600, samples_per_pass=600,
        prior_std=PRIOR, cycles=0, exploration=0, snapshots=3, thinning=8, seed=1,
    )  # fmt: skip
    method.begin(N, 30, 30)
    optimizer = distribute(method.optimizers["SGLD"](method.parameters(), lr), Alone(), method)
    loss = losses.ELBO(losses.ExpectedNLL(losses.Gaussian(NOISE)), N, memory="keep")
    for step in range(30):
        loss(method, x, y, samples=600).backward()
        before = method.weights.detach().clone()
        optimizer.step()
        noise = method.weights.detach() - before * (1 - lr * hessian)
        assert noise.std().item() == pytest.approx(math.sqrt(2 * lr / N), rel=0.12), step
        optimizer.zero_grad()
    exact = 1 / (N * hessian * (1 - lr * hessian / 2))
    assert method.bank.var().item() == pytest.approx(exact, rel=0.1)


def test_noise_is_counted_by_step_and_chain():
    method = Chains(linear, 6, range(2, 5), seed=9)
    method.step = 7
    rows = method.noise(method.weights.detach())
    expected = torch.empty(1, 3, dtype=torch.float64)
    assert torch.equal(rows[1], fill(expected, 9, Purpose.CHAIN, 7, [3], 3)[0])


def test_friction_1_is_langevin_dynamics():
    x, y = data()
    some = {"samples": 3, "snapshots": 2, "exploration": 0.2}
    one = sampled("SGLD", 20, 0.01, x, y, **some)[1]
    assert torch.equal(sampled("SGHMC", 20, 0.01, x, y, friction=1.0, **some)[1], one)
    assert not torch.equal(sampled("SGHMC", 20, 0.01, x, y, friction=0.5, **some)[1], one)


def residual(w):
    """A function that is zero at -1 and 1, with bounded slope."""
    return (w**2 - 1) / (1 + w**2).sqrt()


class Wells(nn.Module):
    """One weight, which starts in the right one of two wells."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(1.0, dtype=torch.float64))

    def forward(self, x):
        return residual(self.w).expand(len(x), 1)


def wells(lr, cycles, items=5):
    """``(20, K)`` weights that 20 chains kept in a potential ``items * residual^2 / 2``."""
    method = Chains(
        lambda _: Wells(), 20, samples_per_pass=20, prior_std=100, cycles=cycles, snapshots=2,
        exploration=0.1,
    )  # fmt: skip
    method.begin(items, 600, 600)
    optimizer = method.optimizers["SGLD"](method.parameters(), lr)
    distribute(optimizer, Alone(), method)
    loss = losses.ELBO(losses.ExpectedNLL(losses.Gaussian(1.0)), items, memory="keep")
    x, y = torch.zeros(items, 1).double(), torch.zeros(items, 1).double()
    for _ in range(600):
        loss(method, x, y, samples=20).backward()
        optimizer.step()
        optimizer.zero_grad()
    return method.bank[..., 0]


def test_cycles_visit_both_modes_and_small_steps_do_not():
    """Zhang et al. 2020, section 3: large steps leave a mode, small ones describe it."""
    assert (wells(1e-3, 0) > 0).all()
    found = wells(0.4, 6)
    assert 0.3 < (found < 0).double().mean() < 0.7
    grid = torch.linspace(-6, 6, 10001).double()
    density = (-5 * residual(grid) ** 2 / 2).exp()
    for edge in (0.5, 1.0, 1.3):
        exact = density[grid.abs() < edge].sum() / density.sum()
        assert (found.abs() < edge).double().mean().item() == pytest.approx(exact.item(), abs=0.08)


def test_a_plan_by_hand():
    plan = Cycles(20, 2, 0.4, 0.2, 2)
    assert [plan.explores(t) for t in range(10)] == [True] * 4 + [False] * 6
    assert {t: plan.slot(t) for t in range(21) if plan.slot(t) is not None} == {
        8: 0, 10: 1, 18: 2, 20: 3,
    }  # fmt: skip
    # Zhang et al., equation 1, counts steps from 1
    for k in range(1, 21):
        assert plan.factor(k - 1) == pytest.approx(
            (math.cos(math.pi * ((k - 1) % 10) / 10) + 1) / 2
        )
    thin = Cycles(20, 2, 0.4, 0.0, 3, thinning=1)
    assert [t for t in range(21) if thin.slot(t) is not None] == [8, 9, 10, 18, 19, 20]
    uneven = Cycles(11, 3, 0.0, 0.0, 1)
    assert [t for t in range(12) if uneven.slot(t) is not None] == [3, 7, 11]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((20, 2, 1.0, 0.0, 1), "method.exploration = 1.0"),
        ((20, 2, 0.5, 0.5, 1), "exploration = 0.5 and method.burn_in = 0.5"),
        ((20, 2, 0.5, 0.0, 6), "snapshots = 6 needs 6 steps .* only 5 of the cycle's 10"),
        (
            (20, 2, 0.5, 0.0, 3, 3),
            r"snapshots = 3 \(3 steps apart\) needs 7 .* only 5 of the cycle's 10 steps",
        ),
        ((20, 30, 0.5, 0.0, 3), "cycles = 30, but the run has 20 steps"),
        ((20, -1, 0.5, 0.0, 3), "cycles = -1"),
        ((20, 1, 0.5, 0.0, 0), "snapshots = 0"),
        ((20, 1, 0.5, 0.0, 1, 0), "thinning = 0"),
    ],
)
def test_plans_that_cannot_be_are_refused(arguments, message):
    with pytest.raises(UsageError, match=message):
        Cycles(*arguments)


def test_prediction_samples_are_the_snapshots_chain_by_chain():
    method = Chains(linear, 4, range(1, 3), cycles=1, snapshots=3, exploration=0)
    assert method.prediction_samples(None) == 4  # none yet: where the chains are
    assert method.prediction_share(4, 2, 0) == range(1, 3)
    assert torch.equal(method.prediction_rows(range(1, 3)), method.weights.detach())
    method.begin(10, 6, 6)
    for step in range(1, 7):
        method.weights.data += 1
        method.step = step
        method.after_step()
    assert method.prediction_samples(None) == method.prediction_samples(12) == 12
    own = method.prediction_share(12, 2, 0)
    assert own == range(3, 9)
    assert torch.equal(method.prediction_rows(own), method.bank.flatten(0, 1))
    assert torch.equal(method.bank[:, 0] + 4, method.bank[:, 2])
    own = method.prediction_share(6, 2, 0)  # 1, 2, 1, 2 of the four chains
    assert own == range(1, 4)
    kept = method.bank[0, [0, 2]], method.bank[1, [2]]
    assert torch.equal(method.prediction_rows(own), torch.cat(kept))
    for asked in (3, 13):
        with pytest.raises(UsageError, match=f"samples = {asked}, but 4 chains of 3 .* 4 to 12"):
            method.prediction_samples(asked)


SETS = (
    "method.name=sgld", "method.prior_std=1.0", "method.cycles=2", "method.snapshots=3",
    "optimizer.name=SGHMC", "optimizer.lr=0.01", "schedule.name=none", "evaluation.samples=18",
)  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["optimizer.name=Adam"], "'sgld' needs optimizer.name = 'SGLD' or 'SGHMC', not 'Adam'"),
        (["optimizer.fricton=0.1"], "unknown key 'optimizer.fricton'.*'friction'"),
        (["optimizer.friction=0.0"], "optimizer.friction = 0.0"),
        (["optimizer.name=SGLD", "optimizer.temperature=-1"], "optimizer.temperature = -1"),
        (["schedule.name=CosineAnnealingLR"], "schedule.name = .*method.cycles = 2"),
        (["schedule.warmup_epochs=1"], "schedule.warmup_epochs = 1.*method.cycles = 2"),
        (
            ["method.snapshots=30", "evaluation.samples=60"],
            "method.snapshots = 30 needs 30 .* 10 of .* 19 steps",
        ),
        (["evaluation.samples=100"], "evaluation.samples = 100, but 6 chains .* 6 to 36"),
        (["loss.name=predictive_nll"], "loss.name = 'predictive_nll'"),
        (["method.prior_std=0"], "method.prior_std = 0"),
    ],
)
def test_contradictions_are_refused(settings, message, small, tmp_path):
    config, topology = load(small, [*SETS, *settings]), init("world")
    with pytest.raises(UsageError, match=message) as found:
        train(config, topology, tmp_path / "run")
    assert "\n" not in str(found.value)


def test_a_contradiction_is_one_line_from_many_ranks(hpcsamp, small, tmp_path):
    sets = [f"--set={s}" for s in (*SETS, "method.snapshots=30", "evaluation.samples=60")]
    done = hpcsamp(3, "train", small, "--output", tmp_path / "run", *sets)
    assert done.code == 2
    assert len(done.errors) == 1
    assert "method.snapshots = 30 needs 30 steps" in done.errors[0]
