"""Optimisers that mix members or elements are refused, whatever their name."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hpcsamp.collectives import Alone, distribute
from hpcsamp.collectives.separable import mixes
from hpcsamp.errors import UsageError
from hpcsamp.grid.placement import Shard
from hpcsamp.methods import SVGD, Chains, Ensemble, MeanField
from hpcsamp.run.optimizer import ELEMENTWISE


def linear(member=0):
    torch.manual_seed(1 + member)
    return nn.Linear(3, 2)


class Clipped(torch.optim.SGD):
    """A user's own: gradients are divided by their norm."""

    def step(self, closure=None):
        for p in self.param_groups[0]["params"]:
            p.grad /= p.grad.norm()
        return super().step(closure)


class Noisy(torch.optim.SGD):
    """Draws random numbers, so that nothing can be concluded from two steps."""

    def step(self, closure=None):
        for p in self.param_groups[0]["params"]:
            p.grad += torch.randn_like(p.grad)
        return super().step(closure)


MIXING = [torch.optim.Adafactor, Clipped]
MIXING += [torch.optim.Muon] if hasattr(torch.optim, "Muon") else []


@pytest.mark.parametrize("kind", MIXING)
@pytest.mark.parametrize("method", [Ensemble, SVGD, Chains])
def test_members_are_not_mixed(kind, method):
    made = method(linear, 3)
    made.begin(20, 100, 10)
    arguments = {"lr": 0.0, "weight_decay": 0.0}  # the rate of a warm-up
    with pytest.raises(UsageError, match=f"{kind.__name__} mixes the members of an ensemble"):
        distribute(kind(made.parameters(), **arguments), Alone(), made)


@pytest.mark.parametrize("name", sorted(ELEMENTWISE))
def test_elementwise_optimisers_train_members_and_shards(name):
    made = Ensemble(linear, 3)
    optimizer = getattr(torch.optim, name)(made.parameters(), lr=0.1)
    torch.optim.lr_scheduler.StepLR(optimizer, 1)  # which replaces the step of the instance
    optimizer.register_step_pre_hook(lambda *_: pytest.fail("a step was observed by the caller"))
    held, state = len(optimizer.state), torch.get_rng_state()
    before = made.weights.detach().clone()
    for placement in (made.placement, Shard(0, 2)):
        assert mixes(optimizer, placement, made) is None
    assert torch.equal(made.weights, before)
    assert len(optimizer.state) == held
    assert torch.equal(torch.get_rng_state(), state)


def test_what_is_not_observed_is_not_refused():
    made = Ensemble(linear, 3)
    before = torch.get_rng_state()
    assert mixes(Noisy(made.parameters(), lr=0.1), made.placement, made) is None
    assert torch.equal(torch.get_rng_state(), before)
    shared = MeanField(linear())  # every rank has all weights
    optimizer = torch.optim.Adafactor(shared.parameters())
    assert mixes(optimizer, shared.placement, shared) is None
    error = mixes(optimizer, Shard(0, 2), shared)
    assert "Adafactor mixes the elements of a parameter" in str(error)
