"""Truth: Bayesian linear regression, where the best mean-field posterior is known."""

from __future__ import annotations

import torch
from torch import nn

from hpcsamp.collectives import Alone, distribute
from hpcsamp.losses import ELBO, ExpectedNLL, Gaussian
from hpcsamp.methods import MeanField

N, NOISE, PRIOR = 60, 0.5, 0.7


def data():
    g = torch.Generator().manual_seed(11)
    x = torch.randn(N, 4, generator=g, dtype=torch.float64)
    x[:, 1] += 0.5 * x[:, 0]  # correlated inputs: the true posterior is not mean-field
    y = x @ torch.tensor([1.0, -2.0, 0.5, 0.0]).double()
    return x, (y + NOISE * torch.randn(N, generator=g, dtype=torch.float64))[:, None]


def test_the_fitted_posterior_is_the_closed_form_optimum():
    """KL(q || p) is least for the true mean and the variances 1 / diag(precision).

    Precision = X'X / noise^2 + 1 / prior^2; source: Bishop 2006, sections 3.3 and 10.1.2.
    """
    x, y = data()
    precision = x.T @ x / NOISE**2 + torch.eye(4).double() / PRIOR**2
    mean = torch.linalg.solve(precision, x.T @ y / NOISE**2)[:, 0]
    std = precision.diagonal() ** -0.5

    method = MeanField(
        nn.Linear(4, 1, bias=False).double(), prior_std=PRIOR, initial_std=0.3, seed=2
    )
    loss = ELBO(ExpectedNLL(Gaussian(NOISE)), N)
    optimizer = distribute(torch.optim.Adam(method.parameters(), lr=0.05), Alone(), method)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 1200)
    for _ in range(1200):
        loss(method, x, y, samples=16).backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    assert ((method.mean - mean).abs() / mean.abs().max()).max() < 0.01
    assert ((method.log_std.exp() - std).abs() / std).max() < 0.03
