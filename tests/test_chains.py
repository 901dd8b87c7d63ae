"""R-hat and effective sample size: the formulas, and which draws they are computed from."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from hpcsamp.collectives import Alone
from hpcsamp.methods import SWAG, Chains, Ensemble, MeanField
from hpcsamp.metrics.chains import diagnose
from hpcsamp.prediction import chains as of_predictions
from hpcsamp.prediction.chains import ChainTally
from hpcsamp.tasks import Prediction
from hpcsamp.tasks.several import SeveralPrediction


def walks(chains, draws, values=4, seed=0):
    """Draws of autocorrelated chains, some around different means, without rounding errors."""
    source = np.random.default_rng(seed)
    x = source.standard_normal((chains, draws, values))
    phi = np.linspace(-0.5, 0.9, values)
    for t in range(1, draws):
        x[:, t] = phi * x[:, t - 1] + np.sqrt(1 - phi**2) * x[:, t]
    x[..., ::2] += source.standard_normal((chains, 1, len(range(0, values, 2))))
    return torch.from_numpy(np.round(x * 2**16) / 2**16)


PEER = {
    (2, 8): (
        [1.4687201575893958, 0.9895319510772742, 1.7125903920436374, 1.336578720574021],
        [],
    ),
    (2, 11): (
        [1.0664476769714009, 1.079406287622047, 0.9777182036770439, 1.4140544992688366],
        [22.453697396113693, 26.020599913279625, 19.108060145925567, 8.15924068076596],
    ),
    (4, 16): (
        [0.9780869375073116, 0.988690094113426, 1.7397617147991793, 1.86323794566246],
        [115.59551833496877, 115.59551833496877, 11.660784494464538, 10.870706794019522],
    ),
    (3, 60): (
        [1.0912918829858298, 1.002771269478344, 1.0687560598354973, 1.0785875761246866],
        [26.935837608912763, 244.3995916475492, 50.5305074407764, 24.798257584214586],
    ),
}


@pytest.mark.parametrize(("chains", "draws"), PEER)
def test_the_numbers_are_those_of_arviz(chains, draws):
    """Recorded from ``rhat`` and ``ess`` of arviz_stats 0.8.0 (``base.array_stats``)."""
    r_hat, ess = diagnose(walks(chains, draws))
    expected = PEER[chains, draws]
    assert r_hat.tolist() == pytest.approx(expected[0], rel=1e-12)
    if draws >= 10:
        assert ess.tolist() == pytest.approx(expected[1], rel=1e-12)
    else:
        assert ess.isnan().all()


def test_rounding_errors_and_monotone_maps_change_nothing():
    x = walks(3, 20)
    x[1, ::2] = x[0, ::2]  # ties, which rounding errors separate
    noise = 1e-15 * torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(0))
    for other in (x + noise, 5 - 3 * x, x.flip(0)):
        for a, b in zip(diagnose(x), diagnose(other), strict=True):
            assert a.tolist() == pytest.approx(b.tolist(), rel=1e-13)
    alone = [diagnose(x[..., v : v + 1]) for v in range(4)]
    r_hat = torch.cat([found for found, _ in alone])
    assert r_hat.tolist() == pytest.approx(diagnose(x)[0].tolist(), rel=1e-13)


def test_values_that_do_not_vary_are_left_out_and_stuck_chains_are_not():
    x = walks(2, 12, 5)
    x[..., 0] = 0.1
    x[..., 1] = 1 - 1e-7 * torch.arange(24, dtype=x.dtype).reshape(2, 12) / 24
    x[..., 2] = torch.tensor([[0.0], [1.0]])
    x[0, 3, 3] = math.nan
    r_hat, ess = diagnose(x, eps=1.2e-7)
    assert r_hat.isnan().tolist() == ess.isnan().tolist() == [True, True, False, False, False]
    assert r_hat[2:4].tolist() == [math.inf, math.inf]
    assert 0 < ess[2] <= 24 / 4
    assert ess[3] == 0
    assert diagnose(x[:, :3])[0][4].isnan()
    assert not diagnose(x[:, :4])[0][4].isnan()


def test_the_effective_sample_size_of_an_autoregression():
    """n (1 - phi) / (1 + phi) for a correlation phi between neighbouring draws."""
    _, ess = diagnose(walks(4, 2000, 40)[..., 1::2])
    phi = torch.linspace(-0.5, 0.9, 40).double()[1::2]
    assert (ess * (1 + phi) / (1 - phi) / 8000).log().mean().abs() < 0.05
    assert ((ess * (1 + phi) / (1 - phi) / 8000).log().abs() < 0.4).all()


class Sampled(Prediction):
    """Predictions with samples ``(B, s, ...)`` only."""

    def __init__(self, samples):
        self.samples = samples

    def lazy(self):
        return {"samples": lambda: self.samples}

    def scores(self):
        return {}


def test_the_last_draws_of_each_chain_are_compared(monkeypatch):
    x = walks(3, 12, 30)
    samples = torch.cat([x[0, 1:], x[1, 1:], x[2]])  # 11, 11 and 12 draws
    batches = samples.T.reshape(3, 5, 2, -1).movedim(2, 3)  # 3 batches of 5 items, 2 values each
    monkeypatch.setattr(of_predictions, "CHUNK", 70)  # pieces of 2 values
    tally = ChainTally(3, [len(samples)], Alone(), 0.0)
    assert tally.draws == 11
    for batch in batches:
        padded = torch.cat([torch.full_like(batch[:1], math.nan), batch])
        tally.update(Sampled(padded), np.arange(6) > 0)
    metrics, missing = tally.result()
    r_hat, ess = diagnose(x[:, 1:])
    expected = {
        "r_hat": r_hat.max().item(),
        "r_hat_above": (r_hat > 1.01).double().mean().item(),
        "ess": ess.min().item(),
    }
    assert metrics == pytest.approx(expected, rel=1e-13)
    assert 0 < metrics["r_hat_above"] < 1
    assert not missing


def test_what_cannot_be_computed_has_its_reason():
    few = ChainTally(2, [7], Alone(), 0.0)
    few.update(Sampled(torch.zeros(1, 7, 1)), np.ones(1, bool))
    assert few.result() == ({}, {
        "r_hat": "3 draws per chain; at least 4 are needed",
        "ess": "3 draws per chain; at least 10 are needed",
    })  # fmt: skip
    tally = ChainTally(2, [16], Alone(), 0.0)
    moving = walks(2, 8, 1).reshape(1, 16, 1)
    each = {"a": Sampled(moving), "b": Sampled(torch.zeros(1, 16, 2))}
    tally.update(SeveralPrediction(each), np.ones(1, bool))
    metrics, missing = tally.result()
    assert metrics.keys() == {"a/r_hat", "a/r_hat_above"}
    assert missing == {
        "b/r_hat": "no prediction varies", "b/ess": "no prediction varies",
        "ess": "8 draws per chain; at least 10 are needed",
    }  # fmt: skip


def test_chains_are_those_of_sgld_and_swag():
    def network(member):
        return nn.Linear(2, 1)

    assert Chains(network, 5, range(2)).chains == SWAG(network, 5, range(2)).chains == 5
    assert Ensemble(network, 5).chains == MeanField(nn.Linear(2, 1)).chains == 0
