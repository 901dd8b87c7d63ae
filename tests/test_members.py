"""Parameters that differ between ranks: members, and shards of the optimiser's state."""

from __future__ import annotations

import pytest
import torch
from test_training import assert_same
from torch import nn

from hpcsamp import losses
from hpcsamp.collectives import Alone, distribute
from hpcsamp.errors import UsageError
from hpcsamp.methods import Ensemble
from hpcsamp.names import METHODS


def network(member: int) -> nn.Module:
    torch.manual_seed(member)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()


X = torch.randn(10, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
Y = X[:, :2].argmax(1)


@pytest.mark.parametrize("memory", ["keep", "stream", "recompute"])
@pytest.mark.parametrize("per_pass", [1, 2])
def test_a_member_is_trained_as_if_it_were_alone(memory, per_pass):
    ensemble = Ensemble(network, 3, prior_std=2.0, samples_per_pass=per_pass)
    optimizer = distribute(torch.optim.SGD(ensemble.parameters(), 0.1), Alone(), ensemble)
    loss = losses.ELBO(losses.ExpectedNLL(losses.Categorical()), 10, memory=memory)
    alone = network(1)
    sgd = torch.optim.SGD(alone.parameters(), 0.1, weight_decay=1 / (10 * 2.0**2))
    for _ in range(3):
        loss(ensemble, X, Y, samples=3).backward()
        optimizer.step()
        optimizer.zero_grad()
        nn.functional.cross_entropy(alone(X), Y).backward()
        sgd.step()
        sgd.zero_grad()
    weights = dict(ensemble.named_variational())
    for name, p in alone.named_parameters():
        assert torch.allclose(weights[name][1], p, rtol=1e-12, atol=1e-14), name
    with ensemble.predicting(), torch.no_grad():
        assert torch.allclose(ensemble(X, samples=range(1, 2))[0], alone(X), rtol=1e-12)


def test_clipping_bounds_each_member_alone():
    ensemble = Ensemble(network, 3)
    optimizer = distribute(torch.optim.SGD(ensemble.parameters(), 1.0), Alone(), ensemble, clip=0.1)
    before = ensemble.weights.detach().clone()
    ensemble.weights.grad.copy_(torch.tensor([[1.0], [1e-3], [0.0]]).expand(3, 26) / 3)
    optimizer.step()
    moved = (before - ensemble.weights.detach()).norm(dim=1)
    assert moved[0].item() == pytest.approx(0.1, rel=1e-4)
    assert moved[1].item() == pytest.approx(1e-3 * 26**0.5, rel=1e-6)
    assert moved[2].item() == 0


def test_an_ensemble_has_its_members_and_no_other_number_of_samples():
    ensemble = Ensemble(network, 3)
    assert ensemble.prediction_samples(None) == ensemble.prediction_samples(3) == 3
    with pytest.raises(UsageError, match=r"evaluation.samples = 8.* 3 members"):
        ensemble.prediction_samples(8)


def test_fewer_samples_than_ranks_are_refused(refusals, small, tmp_path):
    train = ["train", small, "--output", tmp_path / "run"]
    members = ["--set=method.name=ensemble", "--set=method.samples=2"]
    for done in refusals(3, [*train, *members], [*train, "--set=evaluation.samples=2"]):
        assert done.code == 2
        assert len(done.errors) == 1
        assert "2" in done.errors[0]
        assert "3" in done.errors[0]


@pytest.mark.parametrize("method", ["mean_field", "mc_dropout"])
def test_a_sharded_state_goes_on_unsharded(method, hpcsamp, small, tmp_path):
    def run(name, ranks, *settings):
        own = (f"method.name={method}", "optimizer.clip=0.5", *settings)
        sets = [f"--set={s}" for s in own]
        done = hpcsamp(ranks, "train", small, "--output", tmp_path / name, "--resume", *sets)
        assert done.code == 0, done.err
        return tmp_path / name

    run("parts", 3, "optimizer.sharded=true", "training.steps=20")
    assert_same(run("parts", 1), run("whole", 1))


def test_only_elementwise_optimisers_can_be_sharded(hpcsamp, small, tmp_path):
    sets = ["--set=optimizer.name=Adafactor", "--set=optimizer.sharded=true"]
    done = hpcsamp(2, "train", small, "--output", tmp_path / "run", *sets)
    assert done.code == 2
    assert "Adafactor" in done.errors[0]


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_method_holds_parts_only_if_its_own_class_says_so(name):
    """A subclass of such a class may hold or draw more."""
    kind = METHODS.find(name)
    method = kind.__new__(kind)
    if name in ("mean_field", "ivon", "ensemble", "mc_dropout"):
        method.check_parts()
        return
    with pytest.raises(UsageError, match=f"{kind.__name__} cannot split a network over model"):
        method.check_parts()
