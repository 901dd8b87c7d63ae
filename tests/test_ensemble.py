"""Ensembles: members are independent, anchors are draws of the prior."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hpcsamp import losses
from hpcsamp.collectives import Alone, distribute
from hpcsamp.errors import UsageError
from hpcsamp.methods import SWAG, Ensemble

N, NOISE, PRIOR = 12, 0.5, 0.7


def data():
    g = torch.Generator().manual_seed(2)
    x = torch.randn(N, 3, generator=g, dtype=torch.float64)
    x[:, 2] = 0  # of which the data say nothing
    y = x @ torch.tensor([1.0, -2.0, 0.0]).double()
    return x, (y + NOISE * torch.randn(N, generator=g, dtype=torch.float64))[:, None]


def linear(member: int) -> nn.Module:
    torch.manual_seed(member)
    return nn.Linear(3, 1, bias=False).double()


def trained(steps=600, **settings):
    """An ensemble of linear models at the minimum of its loss."""
    ensemble = Ensemble(linear, **{"samples": 200, "samples_per_pass": 200} | settings)
    optimizer = distribute(torch.optim.SGD(ensemble.parameters(), 0.1), Alone(), ensemble)
    loss = losses.ELBO(losses.ExpectedNLL(losses.Gaussian(NOISE)), N, memory="keep")
    x, y = data()
    for _ in range(steps):
        loss(ensemble, x, y, samples=ensemble.samples).backward()
        optimizer.step()
        optimizer.zero_grad()
    return ensemble


def test_anchored_members_are_the_minima_of_the_formula():
    """Linear model: ``w_s = A^-1 (X'y / noise^2 + a_s / prior^2)`` with precision A.

    A is the posterior's. So their mean is the posterior's, too; their covariance is
    ``A^-1 A^-1 / prior^2``: that of the prior where the data say nothing, less than the posterior's
    where they do (Pearce et al. 2020, section 4, whose targets are perturbed beside to make it
    exact).
    """
    ensemble = trained(steps=3000, prior_std=PRIOR, anchored=True, seed=4)
    x, y = data()
    precision = x.T @ x / NOISE**2 + torch.eye(3).double() / PRIOR**2
    right = (x.T @ y / NOISE**2).T + ensemble.anchors / PRIOR**2
    exact = torch.linalg.solve(precision, right.T).T
    found = ensemble.weights.detach()
    assert torch.allclose(found, exact, rtol=1e-6, atol=1e-8)
    inverse = torch.linalg.inv(precision)
    posterior = (inverse @ x.T @ y / NOISE**2)[:, 0]
    error = found.std(0) / len(found) ** 0.5
    assert ((found.mean(0) - posterior).abs() < 3 * error).all()
    assert found.std(0)[2].item() == pytest.approx(PRIOR, rel=0.12)
    assert (found.std(0)[:2] < inverse.diagonal().sqrt()[:2]).all()


def test_without_anchors_members_meet_at_the_maximum_a_posteriori():
    found = trained(steps=3000, samples=5, prior_std=PRIOR).weights.detach()
    x, y = data()
    precision = x.T @ x / NOISE**2 + torch.eye(3).double() / PRIOR**2
    exact = torch.linalg.solve(precision, x.T @ y / NOISE**2)[:, 0]
    assert torch.allclose(found, exact.expand(5, 3), rtol=1e-6, atol=1e-7)


def test_anchors_are_the_members_own():
    whole = Ensemble(linear, 5, prior_std=2.0, anchored=True, seed=6)
    some = Ensemble(linear, 5, range(2, 4), prior_std=2.0, anchored=True, seed=6)
    assert torch.equal(whole.anchors[2:4], some.anchors)
    assert (whole.anchors[0] != whole.anchors[1]).all()
    wide = Ensemble(lambda _: nn.Linear(300, 100), 3, prior_std=2.0, anchored=True)
    assert wide.anchors.std().item() == pytest.approx(2.0, rel=0.01)
    assert "anchors" not in whole.state_dict()


def test_no_member_knows_of_another():
    """Three members of an ensemble of five equal those of an ensemble of three."""
    five = trained(steps=5, samples=5, samples_per_pass=1).weights.detach()
    three = trained(steps=5, samples=3, samples_per_pass=1).weights.detach()
    assert torch.allclose(five[:3], three, rtol=1e-13, atol=0)
    assert min((five[i] - five[j]).norm() for i in range(5) for j in range(i)) > 1e-3


def test_members_that_would_become_one_network_are_refused():
    x, y = data()

    def step(method):
        optimizer = distribute(torch.optim.SGD(method.parameters(), 0.1), Alone(), method)
        loss = losses.ELBO(losses.ExpectedNLL(losses.Gaussian(NOISE)), N)
        loss(method, x, y, samples=3).backward()
        optimizer.step()

    for kind in (Ensemble, SWAG):
        for first in (linear(1), lambda _: linear(1)):
            with pytest.raises(UsageError, match=rf"3 members of {kind.__name__} start from equal"):
                step(kind(first, 3))
    step(Ensemble(linear(1), 3, prior_std=PRIOR, anchored=True))
    step(Ensemble(linear, 3))


def test_anchors_need_a_prior():
    with pytest.raises(UsageError, match=r"method.anchored needs method.prior_std"):
        Ensemble(linear, 3, anchored=True)
