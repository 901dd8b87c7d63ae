"""Masksembles: fixed masks of Monte Carlo dropout, against masks applied by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_training import assert_same
from torch import nn

import hpcsamp as hs
from hpcsamp import losses
from hpcsamp.collectives.sameness import settings_of
from hpcsamp.data import Dataset
from hpcsamp.errors import UsageError
from hpcsamp.methods import MCDropout
from hpcsamp.weights import MaskSet
from hpcsamp.weights.routing.masksembles import masks_of, ones, positions

X = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


def network(*others):
    torch.manual_seed(1)
    made = [nn.Linear(3, 24), nn.Tanh(), nn.Dropout(0.3), nn.Linear(24, 16), nn.Tanh()]
    return nn.Sequential(*made, nn.Dropout(0.5), nn.Linear(16, 2), *others).double()


def fixed(module=None, **others):
    arguments = {"masks": "fixed", "mask_count": 4, "mask_scale": 2.0, "seed": 2} | others
    return MCDropout(network() if module is None else module, **arguments)


@pytest.mark.parametrize(("count", "scale"), [(2, 1.5), (4, 2.0), (4, 3.0), (8, 1.7), (4, 6.0)])
@pytest.mark.parametrize("width", [16, 100, 2048])
def test_masks_have_a_fixed_number_of_ones_and_cover_all_units(count, scale, width):
    """The number is that of the authors' code, and the overlap follows from the scale."""
    masks = MaskSet(count, scale)
    found = masks_of(masks, 3, 0, width)
    assert found.shape == (count, width)
    kept = int(width / (scale * (1 - (1 - 1 / scale) ** count)))
    assert found.sum(1).tolist() == [kept] * count
    assert found.any(0).all()
    at = positions(masks, width)
    assert abs(at * (1 - (1 - kept / at) ** count) - width) <= 0.5
    if width == 2048:  # two masks share m^2 / T units: m / scale
        pairs = (found.double() @ found.double().T).triu(1)
        mean = (pairs.sum() / (count * (count - 1) / 2)).item()
        assert mean == pytest.approx(kept / scale, rel=0.1)


def test_masks_differ_by_seed_and_call_and_those_of_scale_1_keep_all_units():
    masks = MaskSet(4, 2.0)
    first = masks_of(masks, 3, 0, 64)
    others = masks_of(masks, 4, 0, 64), masks_of(masks, 3, 1, 64)
    assert not any(torch.equal(first, of) for of in others)
    assert len(first.unique(dim=0)) == 4
    assert masks_of(MaskSet(3, 1.0), 3, 0, 7).all()
    apart = masks_of(MaskSet(4, 1e6), 3, 0, 64)  # no unit in two masks
    assert torch.equal(apart.sum(0), torch.ones(64, dtype=torch.int64))


@pytest.mark.parametrize("strategy", ["loop", "vmap", "batched", "auto"])
def test_samples_are_the_network_with_their_masks(strategy):
    """Sample s has mask s mod n, in every step and in prediction; outputs and gradients."""
    method, net = fixed(samples_per_pass=3), network()
    method.strategy = strategy
    a, b = (masks_of(MaskSet(4, 2.0), 2, n, w).double() for n, w in enumerate((24, 16)))
    by_hand = []
    for s in range(6):
        h = torch.tanh(net[0](X)) * a[s % 4]
        by_hand.append(net[6](torch.tanh(net[3](h)) * b[s % 4]))
    by_hand = torch.stack(by_hand)
    for step in (0, 7):
        out = method(X, samples=range(6), step=step)
        assert torch.allclose(out, by_hand, rtol=1e-12, atol=1e-12)
    with torch.no_grad(), method.predicting():
        again = method(X, samples=range(6), step=3)
    assert torch.allclose(again, by_hand, rtol=1e-12, atol=1e-12)
    out.square().sum().backward()
    by_hand.square().sum().backward()
    for ours, theirs in zip(method.parameters(), net.parameters(), strict=True):
        assert torch.allclose(ours.grad, theirs.grad, rtol=1e-9, atol=1e-12)


def test_shares_of_the_samples_have_the_same_masks():
    """As on any grid: samples, items and steps may be divided in any way."""
    whole = fixed()(X, samples=range(6), step=4)
    parts = [fixed()(X, samples=own, step=9) for own in (range(2), range(2, 6))]
    assert torch.allclose(torch.cat(parts), whole, rtol=1e-12)
    some = fixed()(X[3:], samples=range(2, 4), step=4, index=torch.arange(3, 5))
    assert torch.allclose(some, whole[2:4, 3:], rtol=1e-12)


class Noisy(nn.Module):
    """Draws in training only, which must not shift the masks of prediction."""

    def forward(self, x):
        return x + 0 * torch.randn_like(x) if self.training else x


def test_masks_of_prediction_are_those_of_training_whatever_else_is_drawn():
    net = network()
    method = fixed(nn.Sequential(net[0], Noisy(), *net[1:]))
    method.train()
    out = method(X, samples=range(4), step=1)
    with torch.no_grad(), method.predicting():
        assert torch.allclose(method(X, samples=range(4)), out, rtol=1e-12)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.gru, self.last = nn.GRU(3, 16, 2, dropout=0.4, batch_first=True), nn.Linear(16, 2)

    def forward(self, x):
        return self.last(self.gru(x[:, None].expand(-1, 3, -1))[0][:, -1])


def test_channels_and_recurrent_units_are_masked():
    conv = nn.Sequential(nn.Conv2d(1, 20, 1), nn.Dropout2d(0.5), nn.Flatten(), nn.Linear(240, 240))
    conv[0].weight.data.zero_()
    conv[0].bias.data.fill_(1.0)
    conv[3].weight.data.copy_(torch.eye(240))
    conv[3].bias.data.zero_()
    y = fixed(conv)(torch.zeros(2, 1, 3, 4), samples=range(4)).detach()
    want = masks_of(MaskSet(4, 2.0), 2, 0, 20).float()[:, None, :, None]
    assert torch.allclose(y.unflatten(2, (20, 12)), want.expand(4, 2, 20, 12))
    gru = fixed(Recurrent().double())
    out = gru(X, samples=range(4), step=1)
    with torch.no_grad(), gru.predicting():
        assert torch.allclose(gru(X, samples=range(4)), out, rtol=1e-10)
    assert (out[0] - out[1]).abs().min() > 1e-9


def test_a_module_without_dropout_has_the_inputs_of_its_linear_layers_masked():
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(3, 24), nn.Tanh(), nn.Linear(24, 2)).double()
    out = fixed(net)(X, samples=range(4))
    masks = masks_of(MaskSet(4, 2.0), 2, 0, 24).double()
    want = net[2](torch.tanh(net[0](X)) * masks[:, None])
    assert torch.allclose(out, want, rtol=1e-12, atol=1e-12)


def test_sub_networks_of_disjoint_masks_are_trained_apart():
    """Each fits its own samples' loss: gradients of a unit come from the masks that keep it."""
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(3, 16), nn.Dropout(0.5), nn.Linear(16, 1)).double()
    method = fixed(net, mask_count=2, mask_scale=1e6)
    loss = losses.ELBO(losses.ExpectedNLL(losses.Gaussian(std=1.0)), 5)
    loss(method, X, X[:, :1], samples=1).backward()
    own = masks_of(MaskSet(2, 1e6), 2, 0, 16)[0]
    assert net[2].weight.grad[0][own].abs().min() > 0
    assert net[2].weight.grad[0][~own].abs().max() == 0


def test_each_mask_counts_equally_in_prediction():
    method = fixed()
    assert [method.prediction_samples(n) for n in (None, 2, 4, 8)] == [4, 2, 4, 8]
    with pytest.raises(UsageError, match=r"evaluation.samples = 6 .* the 4 fixed masks"):
        method.prediction_samples(6)
    with pytest.raises(UsageError, match=r"method.samples = 6 .* choose 4 or a multiple"):
        MCDropout.create(lambda _: network(), 6, range(6), masks="fixed")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: fixed(mask_scale=0.9), r"method.mask_scale = 0.9 must be at least 1"),
        (lambda: fixed(mask_scale=float("nan")), r"method.mask_scale = nan must be"),
        (lambda: fixed(mask_count=1), r"method.mask_count = 1: .* at least 2"),
        (lambda: fixed(rate=0.2), r"method.rate = 0.2 does not apply to fixed masks"),
        (lambda: MCDropout(network(), mask_scale=2.0), r"mask_scale = 2.0 describes fixed masks"),
        (lambda: MCDropout(network(), mask_count=3), r"mask_count = 3 describes fixed masks"),
        (lambda: ones(MaskSet(4, 100.0), 3), r"layer of 3 units has no 4 masks of .*= 100;"),
        (
            lambda: fixed(network(nn.AlphaDropout(0.5)))(X, samples=range(2)),
            r"which alpha_dropout does not have",
        ),
    ],
)
def test_what_cannot_be_is_refused(make, words):
    with pytest.raises(UsageError, match=words):
        make()


def test_settings_of_masks_are_compared_between_ranks():
    """Ranks with other masks differ; MaskSet has slots and no __dict__."""
    one, other = (settings_of(fixed(mask_scale=scale)) for scale in (2.0, 3.0))
    assert one["mask_set"] == {"class": "MaskSet", "count": 4, "scale": 2.0}
    assert one != other


def test_a_run_is_the_same_on_two_ranks_goes_on_and_is_exported(commands, small, digits, tmp_path):
    masks = ("name=mc_dropout", "masks=fixed", "mask_count=3", "mask_scale=1.5", "samples=3")
    lines = ["train", small, *(f"--set=method.{m}" for m in masks), "--set=evaluation.samples=6"]
    for ranks, stops in ((1, [4]), (2, [2, 4])):
        run = [*lines, "--output", tmp_path / str(ranks), "--resume"]
        done = commands(ranks, *([*run, f"--set=training.steps={n}"] for n in stops), timeout=60)
        assert done.code == 0, done.err
    assert_same(tmp_path / "2", tmp_path / "1")
    posterior = hs.load(tmp_path / "2")
    x = Dataset.open(digits, "test").read(range(9))[0]
    with torch.no_grad():
        exported = posterior.to_torch(6)(torch.from_numpy(x))
    expected = posterior.predict(x, samples=6)
    for name in ("probabilities", "epistemic"):
        assert np.allclose(exported[name], expected[name], rtol=1e-6, atol=1e-9)
    assert float(expected.epistemic.max()) > 1e-6  # the sub-networks differ
