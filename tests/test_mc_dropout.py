"""Monte Carlo dropout: counted masks, samples folded into the batch, statistics of many masks."""

from __future__ import annotations

import copy
import math
from contextlib import nullcontext

import pytest
import torch
from draws_by_hand import mask
from torch import nn
from torch.nn import functional
from torchvision.ops import StochasticDepth

from hpcsamp import losses
from hpcsamp.errors import UsageError
from hpcsamp.methods import MCDropout
from hpcsamp.models import MLP, ViT
from hpcsamp.run import checkpoint
from hpcsamp.streams import Purpose


def normal(*shape, seed=5):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def network(*layers):
    torch.manual_seed(1)
    made = [nn.Linear(3, 8), nn.Tanh(), nn.Dropout(0.3), nn.Linear(8, 6), nn.Tanh()]
    return nn.Sequential(*made, nn.Dropout(0.5), nn.Linear(6, 2), *layers).double()


X = normal(5, 3)


class Identity(nn.Module):
    """Returns the mask: a dropout layer after a layer of ones."""

    def __init__(self, rate, width=400, shape=()):
        super().__init__()
        self.first = nn.Linear(1, width)
        self.dropout, self.again = nn.Dropout(rate), nn.Dropout(rate)
        self.shape = shape

    def forward(self, x):
        ones = torch.ones_like(self.first(x))
        return torch.cat([self.dropout(ones), self.again(ones)], -1)


def test_masks_have_their_rate_and_are_independent():
    """Over samples, steps, layers and units; kept units are scaled so that the mean stays."""
    method = MCDropout(Identity(0.3), seed=2)
    x = torch.zeros(2, 1)
    masks = torch.stack([method(x, samples=range(10), step=t) for t in range(20)])
    assert torch.equal(masks[:, :, 0], masks[:, :, 1])  # shared by the items
    masks = masks[:, :, 0].unflatten(-1, (2, 400))  # steps, samples, layers, units
    kept = masks > 0
    assert torch.allclose(masks[kept], torch.tensor(1 / 0.7), rtol=1e-4)
    n = masks.numel()
    assert abs(kept.float().mean() - 0.7) < 4 * math.sqrt(0.21 / n)
    z = (kept.float() - 0.7) / math.sqrt(0.21)
    for axis in range(4):
        products = z.narrow(axis, 1, z.shape[axis] - 1) * z.narrow(axis, 0, z.shape[axis] - 1)
        assert abs(products.mean()) < 4 / math.sqrt(products.numel())


@pytest.mark.parametrize("masks", ["sample", "item"])
def test_an_item_has_its_mask_in_any_batch_and_share(masks):
    method = MCDropout(network(), masks=masks, seed=2)
    index = torch.tensor([4, 0, 9, 2, 7])
    out = method(X, samples=range(5), step=3, index=index)
    some = torch.tensor([3, 1])
    again = method(X[some], samples=range(2, 4), step=3, index=index[some])
    assert torch.allclose(again, out[2:4, some], rtol=1e-12)
    other = copy.deepcopy(network())
    folded = MCDropout(other, masks=masks, seed=2, samples_per_pass=2)
    later = [folded(X, samples=range(5), step=t, index=index) for t in (0, 3)]
    assert torch.allclose(later[1], out, rtol=1e-12)  # drawn ahead at step 0
    assert not torch.allclose(later[0], out)
    assert not torch.allclose(method(X, samples=range(5), step=3), out) or masks == "sample"
    same = torch.ones(2, 3, dtype=torch.float64)
    y = method(same, samples=range(1), step=0)[0]
    assert torch.allclose(y[0], y[1], rtol=1e-12) == (masks == "sample")


@pytest.mark.parametrize("masks", ["sample", "item"])
def test_the_fold_is_each_sample_alone(masks):
    """Against masks multiplied by hand, item by item, and their gradients."""
    method = MCDropout(network(), masks=masks, seed=2)
    net, index = network(), torch.arange(5)
    items = index if masks == "item" else None
    by_hand = []
    for s in range(3):
        h = torch.tanh(net[0](X)) * mask(0.3, (8,), 2, 1, s, 0, items)
        h = torch.tanh(net[3](h)) * mask(0.5, (6,), 2, 1, s, 1, items)
        by_hand.append(net[6](h))
    out = method(X, samples=range(3), step=1, index=index)
    assert torch.allclose(out, torch.stack(by_hand), rtol=1e-12)
    out.square().sum().backward()
    torch.stack(by_hand).square().sum().backward()
    for ours, theirs in zip(method.parameters(), net.parameters(), strict=True):
        assert torch.allclose(ours.grad, theirs.grad, rtol=1e-9)
    views = torch.stack([X, 2 * X, X])
    stacked = method(views, samples=range(3), step=1, index=index, stacked=True)
    assert torch.allclose(stacked[0], out[0], rtol=1e-12)
    assert torch.allclose(stacked[2], out[2], rtol=1e-12)
    doubled = method(2 * X, samples=range(3), step=1, index=index)
    assert torch.allclose(stacked[1], doubled[1], rtol=1e-12)


class Residual(nn.Module):
    """Samples cannot be introduced at the mask, because both branches are added again."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.up, self.drop, self.down = nn.Linear(3, 3), nn.Dropout(0.4), nn.Linear(3, 2)

    def forward(self, x):
        return self.down(x + self.drop(self.up(x)))


def test_samples_part_at_the_input_where_they_must():
    method = MCDropout(Residual().double(), seed=2)
    out = method(X, samples=range(4), step=0)
    alone = torch.cat([method(X, samples=range(s, s + 1), step=0) for s in range(4)])
    assert torch.allclose(out, alone, rtol=1e-12)


class Spatial(nn.Module):
    def __init__(self, kind):
        super().__init__()
        torch.manual_seed(3)
        self.conv, self.drop, self.last = nn.Conv2d(1, 6, 1), kind, nn.Flatten()

    def forward(self, x):
        return self.last(self.drop(torch.ones_like(self.conv(x))))


def test_positions_share_the_mask_of_a_sub_network():
    x = torch.zeros(3, 1, 4, 5)
    channels = MCDropout(Spatial(nn.Dropout2d(0.5)), seed=2)(x, samples=range(4), step=0)
    channels = channels.unflatten(2, (6, 20))
    assert torch.allclose(channels, channels[:, :1, :, :1], rtol=1e-6)
    item = MCDropout(Spatial(nn.Dropout2d(0.5)), masks="item", seed=2)
    item = item(x, samples=range(4), step=0).unflatten(2, (6, 20))
    assert torch.allclose(item, item[..., :1], rtol=1e-6)
    assert not torch.allclose(item[:, 0], item[:, 1])
    tokens = MCDropout(nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 1)).double(), seed=2)
    y = tokens(torch.ones(3, 7, 4).double(), samples=range(2), step=0)
    assert torch.allclose(y, y[:, :1, :1], rtol=1e-12)
    tokens = MCDropout(nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 1)).double(), masks="item")
    y = tokens(torch.ones(3, 7, 4).double(), samples=range(2), step=0)
    assert y.unique().numel() > 6


def test_a_module_without_dropout_layers_has_its_linear_inputs_dropped():
    plain, layers = MLP((3,), 2, hidden=(8, 6)), MLP((3,), 2, hidden=(8, 6), dropout=0.2)
    layers.load_state_dict(dict(zip(layers.state_dict(), plain.state_dict().values(), strict=True)))
    x = X.float()
    a, b = (MCDropout(m, rate=0.2, seed=3)(x, samples=range(4)) for m in (plain, layers))
    assert torch.allclose(a, b, rtol=1e-6)
    assert not torch.allclose(a[0], a[1])
    vit = MCDropout(ViT((1, 4, 4), 3, patch=2, width=8, heads=2, layers=1, hidden=8), seed=1)
    images = normal(2, 1, 4, 4).float()
    out = vit(images, samples=range(3))
    alone = torch.cat([vit(images, samples=range(s, s + 1)) for s in range(3)])
    assert torch.allclose(out, alone, atol=1e-5)


def test_dropout_of_inputs_is_ridge_regression():
    """With squared loss its expectation is that of the mean, plus ``p / (1 - p) x_j^2 w_j^2``.

    (Srivastava et al. 2014, section 9.1; Wager, Wang and Liang 2013, section 2.)
    """
    rate, x = 0.3, normal(12, 4, seed=1)
    y = x @ normal(4, 1, seed=2) + 0.1 * normal(12, 1, seed=3)
    net = nn.Sequential(nn.Dropout(rate), nn.Linear(4, 1, bias=False)).double()
    method = MCDropout(net, seed=4)
    loss = losses.ELBO(losses.ExpectedNLL(losses.Gaussian(std=1.0)), 12)
    optimizer = torch.optim.SGD(method.parameters(), lr=0.3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, 40)
    for step in range(40):
        loss(method, x, y, samples=1000, step=step).backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    gram = x.T @ x
    ridge = gram + torch.diag(gram.diagonal()) * rate / (1 - rate)
    closed = torch.linalg.solve(ridge, x.T @ y)[:, 0]
    plain = torch.linalg.solve(gram, x.T @ y)[:, 0]
    found = net[1].weight.detach()[0]
    assert (found - closed).norm() < 0.01 * closed.norm()
    assert (plain - closed).norm() > 0.1 * closed.norm()


def test_the_mean_over_masks_of_a_linear_network_is_that_without():
    net = nn.Sequential(nn.Linear(3, 16), nn.Dropout(0.4), nn.Linear(16, 2)).double()
    method = MCDropout(net, seed=1)
    with torch.no_grad(), method.predicting():
        out = method(X, samples=range(40_000))
        error = (out.mean(0) - net(X)).abs() / (out.std(0) / 200)
        assert error.max() < 4.5
        assert torch.allclose(method(X, samples=range(7, 9), step=5), out[7:9], rtol=1e-12)
    assert not torch.allclose(method(X, samples=range(7, 9), step=0), out[7:9])


@pytest.mark.parametrize("loss", ["expected_nll", "mean_mse"])
def test_gradients_are_the_same_in_every_memory_mode(loss):
    found = []
    y = normal(5, 2, seed=9)
    modes = (("keep", "auto"), ("stream", 1), ("stream", 2), ("recompute", 3))
    for memory, chunk in modes:
        if memory == "stream" and loss == "mean_mse":
            continue
        method = MCDropout(network(), seed=7, prior_std=0.5, samples_per_pass=chunk)
        fixed = {"std": 1.0} if loss == "expected_nll" else {}
        elbo = losses.ELBO(losses.make(loss, "regression", likelihood=fixed), 10, memory=memory)
        elbo(method, X, y, samples=5, step=1).backward()
        found.append(torch.cat([p.grad.flatten() for p in method.parameters()]))
    for other in found[1:]:
        assert torch.allclose(other, found[0], rtol=1e-9, atol=1e-12)


def test_the_penalty_is_the_weight_decay_of_a_normal_prior():
    method = MCDropout(network(), prior_std=0.5)
    flat = nn.utils.parameters_to_vector(method.parameters())
    assert method.penalty().item() == pytest.approx(flat.square().sum().item() * 2, rel=1e-12)
    shares = sum(method.penalty(i, 3) for i in range(3))
    assert shares.item() == pytest.approx(method.penalty().item(), rel=1e-12)
    assert MCDropout(network()).penalty().item() == 0


def test_masks_are_those_of_prediction_in_a_module_that_is_in_evaluation_mode_again_after():
    net = network()
    method = MCDropout(net, seed=2)
    with method.predicting():
        out = method(X, samples=range(2), step=7)
        assert torch.equal(net(X), net(X))
    h = torch.tanh(net[0](X)) * mask(0.3, (8,), 2, 0, 1, 0, purpose=Purpose.PREDICT_MODULE)
    h = torch.tanh(net[3](h)) * mask(0.5, (6,), 2, 0, 1, 1, purpose=Purpose.PREDICT_MODULE)
    assert torch.allclose(out[1], net[6](h), rtol=1e-12)


class Anywhere(nn.Module):
    """Drops in a function, in attention, between recurrent layers, and whole branches."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.up = nn.Linear(3, 4)
        self.attention = nn.MultiheadAttention(4, 2, 0.3, batch_first=True)
        self.recurrent = nn.GRU(4, 4, 2, dropout=0.4, batch_first=True)
        self.depth = StochasticDepth(0.5, "row")
        self.last = nn.Linear(4, 2)

    def forward(self, x):
        x = self.up(x)[:, None].expand(-1, 3, -1)
        x = x + self.depth(self.attention(x, x, x)[0])
        return self.last(functional.dropout(self.recurrent(x)[0], 0.2, self.training)[:, -1])


@pytest.mark.parametrize("masks", ["sample", "item"])
def test_all_that_drops_in_training_masks_in_training_and_in_prediction(masks):
    method = MCDropout(Anywhere().double(), masks=masks, seed=2)
    index = torch.tensor([4, 0, 9, 2, 7])
    for step, where in ((1, nullcontext()), (None, method.predicting())):
        with where:
            out = method(X, samples=range(6), step=step, index=index)
            part = method(X[1:4], samples=range(3, 6), step=step, index=index[1:4])
            assert torch.allclose(part, out[3:, 1:4], rtol=1e-10)
            assert (out[0] - out[1]).abs().min() > 1e-6
            same = method(X[:1].expand(5, 3), samples=range(2), step=step, index=index)
            apart = (same[:, :1] - same).abs().max()
            assert (apart < 1e-12) == (masks == "sample")
    parts = method._places._layers
    kinds = {type(p).__name__ for p in parts}
    assert kinds == {"Anywhere", "GRU", "MultiheadAttention", "StochasticDepth"}


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: MCDropout(network(), rate=1.0), r"method.rate = 1.0"),
        (lambda: MCDropout(network(), rate=-0.1), r"method.rate = -0.1"),
        (lambda: MCDropout(network(), masks="items"), r"method.masks = 'items'"),
        (lambda: MCDropout(network(), prior_std=0.0), r"method.prior_std = 0.0"),
        (lambda: MCDropout(network(), samples_per_pass=0), r"method.samples_per_pass = 0"),
        (
            lambda: MCDropout(nn.Linear(3, 2).double())(X, samples=range(1)),
            r"has no dropout in training.* there is only 1",
        ),
    ],
)
def test_what_cannot_be_is_refused(make, words):
    with pytest.raises(UsageError, match=words):
        make()


def test_bad_arguments_are_one_line(refusals, small, tmp_path):
    bad = {"method.rate=1.5": "method.rate = 1.5", "method.masks=rows": "method.masks = 'rows'"}
    train = ["train", small, "--output", tmp_path / "run", "--set=method.name=mc_dropout"]
    found = refusals(2, *([*train, f"--set={setting}"] for setting in bad))
    for done, words in zip(found, bad.values(), strict=True):
        assert done.code == 2
        assert len(done.errors) == 1
        assert words in done.errors[0]


def test_a_run_whose_masks_came_from_other_streams_is_evaluated_and_does_not_go_on(
    commands, hpcsamp, small, tmp_path
):
    run = tmp_path / "run"
    sets = ["--set=method.name=mc_dropout", "--set=training.epochs=2"]
    assert hpcsamp(1, "train", small, "--output", run, *sets).code == 0
    for path in (run / "checkpoints").glob("*.pt"):
        content = checkpoint.read(path)
        checkpoint.save(path, {k: v for k, v in content.items() if k not in ("draws", "version")})
    done = commands(1, ["evaluate", run], ["train", small, "--output", run, "--resume", *sets])
    assert done.code == 1
    lines = [
        line for line in done.err.splitlines() if "the random draws of MCDropout changed" in line
    ]
    assert "other samples of the same distribution" in lines[0]
    assert "train again with another --output" in lines[1]
