"""Parts of a module that are recomputed in the backward pass have the same weights and draws."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.checkpoint import checkpoint

import hpcsamp as hs
from hpcsamp.collectives import Alone
from hpcsamp.errors import UsageError
from hpcsamp.losses import ELBO, Categorical, ExpectedNLL
from hpcsamp.methods import METHODS
from hpcsamp.models import ViT

X = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


class Again(torch.autograd.Function):
    """Recomputation as implemented by some libraries."""

    @staticmethod
    def forward(ctx, x, block):
        ctx.save_for_backward(x)
        ctx.block = block
        return block(x)

    @staticmethod
    def backward(ctx, gradient):
        x = ctx.saved_tensors[0].detach().requires_grad_()
        with torch.enable_grad():
            y = ctx.block(x)
        return torch.autograd.grad(y, x, gradient)[0], None


CALLS = {
    "plain": lambda block, x: block(x),
    "checkpoint": lambda block, x: checkpoint(block, x, use_reentrant=False),
    "function": lambda block, x: checkpoint(
        lambda t: F.dropout(block(t), 0.2), x, use_reentrant=False, preserve_rng_state=False
    ),
    "plain function": lambda block, x: F.dropout(block(x), 0.2),
    "reentrant": lambda block, x: checkpoint(block, x, use_reentrant=True),
    "own": lambda block, x: Again.apply(x, block),
}


class Net(nn.Module):
    def __init__(self, call):
        super().__init__()
        torch.manual_seed(1)
        self.call, self.first, self.last = call, nn.Linear(3, 4), nn.Linear(4, 2)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Dropout(0.4)) for _ in range(2)
        )

    def forward(self, x):
        x = self.first(F.dropout(x, 0.1))
        for block in self.blocks:
            x = x + self.call(block, x)
        return self.last(x)


def gradients(name, call, chunk):
    made = METHODS[name].create(lambda _: Net(CALLS[call]).double(), 3, range(3))
    made.samples_per_pass = chunk
    y = made(X, samples=range(3), step=2)
    return y, torch.autograd.grad(y.square().sum(), list(made.parameters()))


@pytest.mark.parametrize(
    ("one", "other"), [("plain", "checkpoint"), ("plain function", "function")]
)
@pytest.mark.parametrize("chunk", [1, 3])
@pytest.mark.parametrize("name", ["mean_field", "ensemble", "mc_dropout"])
def test_gradients_are_those_without_recomputation(name, chunk, one, other):
    y, plain = gradients(name, one, chunk)
    z, again = gradients(name, other, chunk)
    assert torch.allclose(z, y, rtol=1e-12)
    for a, b in zip(again, plain, strict=True):
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["mean_field", "ensemble"])
def test_a_pass_that_is_gone_through_twice_is_computed_twice(name):
    made = METHODS[name].create(lambda _: Net(CALLS["checkpoint"]).double(), 2, range(2))
    made.samples_per_pass = 1
    y = made(X, samples=range(2), step=2).square().sum()
    made(X, samples=range(2), step=3)  # other masks have been drawn since
    found = [
        torch.autograd.grad(y, list(made.parameters()), retain_graph=True)[0] for _ in range(2)
    ]
    assert torch.equal(*found)


@pytest.mark.parametrize(
    ("call", "words"),
    [("reentrant", "use_reentrant=True"), ("own", r"blocks\.1, a Sequential, is evaluated again")],
)
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("name", ["mean_field", "ensemble", "mc_dropout"])
def test_recomputation_with_other_weights_is_refused(name, call, words):
    with pytest.raises(UsageError, match=words):
        gradients(name, call, 1)


def test_models_of_the_package_recompute_their_masks():
    found = []
    for again in (False, True):
        torch.manual_seed(1)
        net = ViT(
            (1, 4, 4), 3, patch=2, width=8, heads=2, layers=2, hidden=8, checkpoint=again
        ).double()
        made = METHODS["mc_dropout"].create(lambda _, net=net: net, 2, range(2))
        images = torch.randn(
            2, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2)
        )
        y = made(images, samples=range(2))
        found.append(torch.autograd.grad(y.square().sum(), list(made.parameters())))
    for a, b in zip(*found, strict=True):
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-13)


class Calls(nn.Module):
    def __init__(self, block, call):
        super().__init__()
        self.block, self.call = block, call

    def forward(self, x):
        return self.call(self.block, x)


def trained(call):
    torch.manual_seed(1)
    block = nn.Sequential(
        nn.utils.parametrizations.spectral_norm(nn.Linear(3, 3)), nn.BatchNorm1d(3), nn.Dropout(0.4)
    )
    net = nn.Sequential(Calls(block, CALLS[call]), nn.Linear(3, 2)).double()
    made = METHODS["mean_field"].create(lambda _: net, 2, range(2))
    made.samples_per_pass = 1
    optimizer = hs.distribute(torch.optim.SGD(made.parameters(), 0.1), Alone(), made)
    loss = ELBO(ExpectedNLL(Categorical()), 5)
    for _ in range(2):
        loss(made, X, torch.tensor([0, 1, 0, 1, 1]), samples=2).backward()
        optimizer.step()
        optimizer.zero_grad()
    return {name: b.clone() for name, b in net.named_buffers()} | {"mean": made.mean.detach()}


def test_state_advances_once_whether_or_not_it_is_computed_again():
    plain, again = trained("plain"), trained("checkpoint")
    assert plain["0.block.1.num_batches_tracked"] == 2
    for name, value in plain.items():
        assert torch.allclose(again[name], value, rtol=1e-10, atol=1e-12), name
