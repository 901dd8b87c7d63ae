"""Posteriors as modules and as inference data: masks of networks, several targets."""

from __future__ import annotations

import numpy as np
import onnx.reference
import pytest
import torch
from scipy import stats
from torch import nn
from torch.nn import functional as F  # noqa: N812

import hpcsamp as hs
from hpcsamp.errors import UsageError
from hpcsamp.ingest.named import from_named


class Branches(nn.Module):
    """A network that drops in every way: channels, units, attention, between layers, by chance."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3)
        self.channels = nn.Dropout2d(0.3)
        self.attention = nn.MultiheadAttention(4, 2, dropout=0.2, batch_first=True)
        self.norm, self.head = nn.BatchNorm1d(4), nn.Linear(4, 2)

    def forward(self, x):
        z = self.channels(torch.tanh(self.first(x[:, None])))
        z = z.flatten(2).transpose(1, 2)
        z = z + self.attention(z, z, z, need_weights=False)[0]
        if self.training:
            z = z * torch.empty(z.shape[0], 1, 1).bernoulli_(0.7)
        return self.head(F.dropout(self.norm(z.mean(1)), 0.4, self.training))


class Deep(nn.Module):
    """Recurrent layers with dropout between them."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.LSTM(5, 6, 2, dropout=0.4, batch_first=True)
        self.head = nn.Linear(6, 2)

    def forward(self, x):
        return self.head(self.layers(x)[0][:, -1])


class Noisy(nn.Module):
    """The same noise for all items, in prediction too."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(20, 6), nn.Linear(6, 2)

    def forward(self, x):
        z = self.body(x.flatten(1))
        return self.head(torch.tanh(z + torch.randn(6, dtype=z.dtype)))


X = np.random.default_rng(0).normal(size=(40, 4, 5))
Y = X[:, 0, :2] * 3 + 10


def trained(network, method, **keys):
    keys = {"epochs": 1, "samples": 3, "quiet": True, "batch": 20} | keys
    batch = {"data.batch": keys.pop("batch"), "training.precision": "float64"}
    return hs.fit(network, (X, Y), method=method, **keys, **batch)


def plain() -> nn.Module:
    """A network that drops nothing by itself."""
    return nn.Sequential(nn.Flatten(), nn.Linear(20, 8), nn.ReLU(), nn.Linear(8, 2))


@pytest.mark.filterwarnings("ignore:The tensor attributes .* were assigned:UserWarning")  # torch's
@pytest.mark.parametrize(
    ("network", "method", "with_onnx"),
    [
        (Branches, "mc_dropout", False),
        (Deep, "mc_dropout", False),
        (plain, {"name": "mc_dropout", "rate": 0.3}, True),
        (Noisy, "mean_field", True),
    ],
)
def test_masks_are_part_of_what_is_exported(tmp_path, network, method, with_onnx):
    posterior = trained(network, method)
    found = posterior.predict(X[:7], samples=5, keep_samples=True)
    assert float(found.samples.std("sample").mean()) > 1e-3  # the samples differ
    module = posterior.to_torch(5)
    answers = [module(torch.from_numpy(X[:7]))]
    some = {0: torch.export.Dim("items", min=2)}
    program = torch.export.export(module, (torch.from_numpy(X[:3]),), dynamic_shapes=((some,),))
    answers.append(program.module()(torch.from_numpy(X[:7])))
    if with_onnx:
        path = posterior.to_onnx(tmp_path / "p.onnx", 5)
        session = onnx.reference.ReferenceEvaluator(str(path))
        made = session.run(None, {"x": X[:7]})
        answers.append(dict(zip(session.output_names, made, strict=True)))
    for answer in answers:
        for key, value in answer.items():
            np.testing.assert_allclose(np.asarray(value), found[key], rtol=1e-7, err_msg=key)
    for s, one in enumerate(posterior.modules(2)):  # outputs in units of training
        raw = torch.from_numpy((X[:7] - ms(posterior, "x")[0]) / ms(posterior, "x")[1])
        mean, std = ms(posterior, "y")
        values = one(raw).detach().numpy()[:, :2] * std + mean  # the others are of the noise
        np.testing.assert_allclose(values, found.samples[:, s], rtol=1e-9)


def ms(posterior, name):
    stats_of = posterior.trained.manifest.stats[name]
    shape = (-1, 1) if name == "x" else (-1,)
    return np.reshape(stats_of.mean, shape), np.reshape(stats_of.std, shape)


def test_masks_of_each_item_are_not_exported():
    posterior = trained(plain, {"name": "mc_dropout", "masks": "item"})
    with pytest.raises(UsageError, match=r"dropout draws for each item.*cannot be exported"):
        posterior.to_torch(2)


class Heads(nn.Module):
    """Two outputs by name."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.kind, self.size = nn.Linear(20, 8), nn.Linear(8, 3), nn.Linear(8, 2)

    def forward(self, x):
        z = torch.tanh(self.body(x.flatten(1)))
        return {"kind": self.kind(z), "size": self.size(z)}


def test_several_targets_are_several_outputs(tmp_path):
    kind, size = np.arange(40) % 3, Y.copy()
    kind[::7], size[::5, 0], size[3] = -1, np.nan, np.nan
    source = from_named(
        {"train": (X, {"kind": kind, "size": size})},
        name="plants",
        missing={"kind": -1, "size": "nan"},
        normalize=["size"],
        fractions={"test": 0.5},
    )
    options = {"epochs": 1, "samples": 2, "quiet": True}
    posterior = hs.fit(Heads, source, **options, **{"training.precision": "float64"})
    found = posterior.predict(X[:7], samples=4)
    path = posterior.to_onnx(tmp_path / "p.onnx", 4)
    session = onnx.reference.ReferenceEvaluator(str(path))
    made = dict(zip(session.output_names, session.run(None, {"x": X[:7]}), strict=True))
    assert made.keys() == {n for n in found.data_vars if not n.endswith("quantiles")}
    for key, value in made.items():
        np.testing.assert_allclose(value, found[key], rtol=1e-6, err_msg=key)

    tree = posterior.to_arviz(300, split="test")
    items = source.items["test"]
    predicted = posterior.predict(items["x"], samples=300, keep_samples=True)
    for name, group in (("kind", "kind_class"), ("size", "size_mean")):
        assert tree["observed_data"][name].shape == items[name].shape, group
    np.testing.assert_allclose(tree["observed_data"]["size"], items["size"], rtol=1e-12)
    assert np.array_equal(tree["observed_data"]["kind"], items["kind"])
    assert tree["observed_data"]["size"].dims == ("item", "size_value")
    density = tree["log_likelihood"]["kind"].values[0]
    known = items["kind"] >= 0
    assert np.isnan(density[:, ~known]).all()
    p = predicted.kind_samples.values[known, :, items["kind"][known]]
    np.testing.assert_allclose(density[:, known], np.log(p).T, rtol=1e-5)
    density = tree["log_likelihood"]["size"].values[0]
    mean, scale = (
        np.asarray(getattr(posterior.trained.manifest.stats["size"], k)) for k in ("mean", "std")
    )
    z = (items["size"] - mean) / scale
    outputs = (predicted.size_samples.values.transpose(1, 0, 2) - mean) / scale
    truth = stats.norm.logpdf(z, outputs, predicted.size_std_aleatoric.values / scale)
    truth = np.where(np.isnan(z).all(1), np.nan, np.nansum(truth, -1))
    np.testing.assert_allclose(density, truth, rtol=1e-8)
    drawn = tree["posterior_predictive"]
    off = (drawn["size"].values[0].mean(0) - predicted.size_mean) / (predicted.size_std / 300**0.5)
    assert np.abs(off).max() < 5
    shares = np.stack([(drawn["kind"].values[0] == c).mean(0) for c in range(3)], -1)
    assert np.abs(shares - predicted.kind_probabilities).max() < 5 * 0.5 / 300**0.5
