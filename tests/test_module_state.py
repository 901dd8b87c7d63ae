"""Frozen parameters and buffers: separate for each member, kept in checkpoints, of any type."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn

from hpcsamp.errors import UsageError
from hpcsamp.methods import METHODS, Ensemble, LastLayer, MCDropout, MeanField

NAMES = ["ensemble", "last_layer", "mc_dropout", "mean_field", "sgld", "swag"]

CODE = '''
import torch
from torch import nn

class Net(nn.Module):
    """Holds more than what is trained, drawn when it is built."""

    def __init__(self, in_shape=(3,), outputs=2, batch_norm=False):
        super().__init__()
        self.body = nn.Linear(in_shape[0], 5)
        self.drop = nn.Dropout(0.1)
        self.head = nn.Linear(5, outputs)
        self.body.requires_grad_(False)
        self.register_buffer("scale", torch.rand(5) + 0.5)
        self.register_buffer("shift", torch.randn(()), persistent=False)
        self.register_buffer("phase", torch.randn(5, dtype=torch.cfloat), persistent=False)
        self.norm = nn.BatchNorm1d(5, track_running_stats=False) if batch_norm else nn.Identity()

    def forward(self, x):
        h = self.norm(self.body(x).tanh()) * self.scale + self.shift
        return self.head(self.drop((h * self.phase).imag))
'''
exec(CODE)
X = torch.randn(4, 3, generator=torch.Generator().manual_seed(2))


def build(seed):
    torch.manual_seed(seed)
    net = Net()  # noqa: F821
    return net


def make(name, first):
    networks = {s: build(first + s) for s in range(2)}
    for net in networks.values():
        net.drop.p = 0.3 if name == "mc_dropout" else 0.0
    return METHODS[name].create(lambda s: networks[s or 0], 2, range(2))


@pytest.mark.parametrize("name", NAMES)
def test_all_of_a_modules_state_is_in_that_of_its_method(name):
    a, b = make(name, 1).double(), make(name, 7).double()
    assert not torch.allclose(a(X.double(), samples=range(2)), b(X.double(), samples=range(2)))
    kept = {k: v.clone() for k, v in a.state_dict().items()}
    b.load_state_dict(kept)
    assert torch.equal(a(X.double(), samples=range(2)), b(X.double(), samples=range(2)))
    one, other = a.held(), b.held()
    assert list(one) == list(other)
    assert all(torch.equal(one[n], other[n]) for n in one)
    for part in ("body.weight", "body.bias", "scale", "shift", "phase"):
        assert any(n.endswith(part) for n in one), part
        assert any(n.endswith(part) for n in kept), part
    missing = next(n for n in kept if n.endswith("shift"))
    with pytest.raises(RuntimeError, match="shift"):
        b.load_state_dict({n: v for n, v in kept.items() if n != missing})


@pytest.mark.parametrize("name", NAMES)
def test_extra_state_is_kept_of_each_member(name):
    class Extra(nn.Sequential):
        def get_extra_state(self):
            return {"seen": self.seen, "range": torch.arange(2.0)}

        def set_extra_state(self, state):
            self.seen = state["seen"] if state["range"][1] == 1 else "torn"

    def made(first):
        nets = [Extra(nn.Linear(3, 3), nn.Dropout(0.0), nn.Linear(3, 2)) for _ in range(2)]
        for s, net in enumerate(nets):
            net.seen = first + s
        drop = {"rate": 0.0} if name == "mc_dropout" else {}
        return METHODS[name].create(lambda s: nets[s or 0], 2, range(2), **drop)

    a, b = made(3), made(7)
    b.load_state_dict(a.state_dict())
    assert [net.seen for net in b.networks] == [net.seen for net in a.networks]
    a.networks[0].seen = object()
    if name != "mc_dropout":
        with pytest.raises(UsageError, match="Extra has an extra state that no checkpoint can"):
            a.state_dict()


def test_members_of_one_module_have_buffers_of_their_own():
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2).eval())
    method = Ensemble(net, 3)
    kept = {k: v.clone() for k, v in method.state_dict().items()}
    kept["constants.1.running_mean"] = torch.arange(6.0).view(3, 2)
    method.load_state_dict(kept)
    assert torch.equal(method.state_dict()["constants.1.running_mean"][1], torch.tensor([2.0, 3]))
    with method.predicting():
        y = method(X, samples=range(3))
    assert torch.allclose(y[0] - y[2], torch.full((4, 2), 4.0), atol=1e-3)


@pytest.mark.parametrize("passes", [1, 2])
def test_members_are_evaluated_with_frozen_parameters_and_buffers_of_their_own(passes):
    networks = [build(s) for s in range(3)]
    for net in networks:
        net.drop.p = 0.0
    method = Ensemble(lambda s: networks[s], 3, samples_per_pass=passes)
    truth = torch.stack([net(X) for net in networks])
    assert torch.allclose(method(X, samples=range(3)), truth, rtol=1e-5, atol=1e-6)
    for share in (range(1), range(1, 3)):  # the ranks of another grid
        part = Ensemble(lambda s: networks[s], 3, share, samples_per_pass=passes)
        assert torch.allclose(part(X, samples=share), truth[share.start : share.stop], rtol=1e-5)
    with method.predicting():
        assert torch.allclose(method(X, samples=range(3)), truth, rtol=1e-5, atol=1e-6)


def test_members_that_differ_in_more_than_tensors_are_not_vectorised():
    class Scaled(nn.Linear):
        def forward(self, x):
            return super().forward(x) * self.factor

    networks = [Scaled(3, 2) for _ in range(3)]
    for factor, net in enumerate(networks):
        net.factor = float(factor)
    method = Ensemble(lambda s: networks[s], 3, samples_per_pass=3)
    truth = torch.stack([net(X) for net in networks])
    assert torch.allclose(method(X, samples=range(3)), truth, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_complex_buffers_keep_their_imaginary_part(name):
    method = make(name, 1)
    before = method.networks[0].phase.clone()
    phase = method.to(torch.float64).networks[0].phase
    assert phase.dtype == torch.complex128
    assert torch.equal(phase, before.to(torch.complex128))


def holding(name, value, trained=True):
    net = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.0), nn.Linear(3, 2))
    net.register_parameter(name, nn.Parameter(value, requires_grad=trained))
    return net


@pytest.mark.parametrize("method", [MeanField, LastLayer, MCDropout, lambda m: Ensemble(m, 2)])
def test_parameters_of_any_kind_are_right_or_refused(method):
    made = method(holding("wave", torch.full((2,), 1 + 2j))).double()
    assert torch.equal(made.networks[0].wave.detach(), torch.full((2,), 1 + 2j).to(torch.cdouble))
    with pytest.raises(
        UsageError, match=r"0, a LazyLinear, has no shape yet \(weight\).*network\(x\)"
    ):
        method(nn.Sequential(nn.LazyLinear(3), nn.Dropout(0.1), nn.Linear(3, 2)))
    for value in (torch.ones(2, dtype=torch.cfloat), torch.arange(3), torch.tensor([True])):
        made = method(holding("still", value, trained=False)).double()
        kept = [v for n, v in made.held().items() if n.endswith("still")]
        assert all(torch.equal(v, value.to(v.dtype)) for v in kept)
        assert kept
        assert made(X.double(), samples=range(2)).shape == (2, 4, 2)
    empty = method(holding("none", torch.ones(0, 3)))
    assert empty(X, samples=range(2)).shape == (2, 4, 2)


def test_a_weight_with_two_names_is_one_variable():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.tokens, self.drop = nn.Embedding(7, 3), nn.Dropout(0.0)
            self.head = nn.Linear(3, 7, bias=False)
            self.head.weight = self.tokens.weight

        def forward(self, x):
            return self.head(self.drop(self.tokens(x)))

    x = torch.arange(4)
    for method in (MeanField(Tied(), initial_std=0.5), Ensemble(Tied(), 2)):
        assert sum(p.numel() for p in method.parameters()) in (2 * 21, 2 * 21)
        y = method(x, samples=range(1))[0]
        w = method.draw(0, range(1))[0] if isinstance(method, MeanField) else method.weights[0]
        w = w.view(7, 3)
        assert torch.allclose(y, w[x] @ w.T, atol=1e-6)
    with pytest.raises(UsageError, match="shared with another layer"):
        LastLayer(Tied())


def test_frozen_parameters_of_torch_blue_modules_stay():
    vi = pytest.importorskip("torch_blue.vi")
    model = vi.VISequential(vi.VILinear(3, 4), nn.LayerNorm(4), vi.VILinear(4, 2))
    model[1].weight.requires_grad_(False)
    method = MeanField(model)
    assert method.fixed.numel() == 4
    assert "constants.1.weight" in method.held()
    before = model[1].weight.clone()
    optimizer = torch.optim.SGD(method.parameters(), lr=1.0)
    method(X, samples=range(2)).square().sum().backward()
    optimizer.step()
    assert torch.equal(model[1].weight, before)
    model = vi.VISequential(vi.VILinear(3, 4))
    model.requires_grad_(False)
    with pytest.raises(
        UsageError, match="weight is a random variable whose distribution is frozen"
    ):
        MeanField(model)


def test_a_run_gives_the_same_on_any_grid_and_a_module_that_does_not_is_refused(
    tmp_path, commands, monkeypatch
):
    """Members drawn apart; a layer that normalises over the batch, on two ranks."""
    (tmp_path / "ownnet.py").write_text(CODE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    x = torch.randn(60, 3, generator=torch.Generator().manual_seed(1)).numpy()
    np.savez(tmp_path / "set.npz", x=x, y=x[:, :1], x_valid=x, y_valid=x[:, :1])
    config = tmp_path / "run.toml"
    config.write_text(
        f"""task = "regression"
[data]
path = "{tmp_path / "set"}"
batch = 20
[model]
name = "ownnet:Net"
[method]
name = "ensemble"
samples = 2
[loss]
name = "expected_nll"
[training]
epochs = 2
precision = "float64"
"""
    )
    ingest = ["ingest", "npz", tmp_path / "set.npz", "--out", tmp_path / "set"]
    train = ["train", config, "--output"]
    done = commands(1, ingest)
    assert done.code == 0, done.err
    (tmp_path / "ownnet.py").write_text(CODE.replace("Dropout(0.1)", "Dropout(0.0)"))
    done = commands(1, [*train, tmp_path / "one"])
    assert done.code == 0, done.err
    refused = ["--set", "model.batch_norm=true"]
    done = commands(2, [*train, tmp_path / "two"], [*train, tmp_path / "bad", *refused])
    assert done.code == 2, done.err
    lines = [line for line in done.err.splitlines() if "norm, a BatchNorm1d, makes an item" in line]
    assert len(lines) == 1
    one, two = (json.loads((tmp_path / n / "summary.json").read_text()) for n in ("one", "two"))
    assert one["metrics"]["nll"] == pytest.approx(two["metrics"]["nll"], rel=1e-10)
    assert one["metrics"]["rmse"] == pytest.approx(two["metrics"]["rmse"], rel=1e-10)
    # another initial state, as of a file that was replaced: that of the checkpoint counts
    (tmp_path / "ownnet.py").write_text(
        CODE.replace("Dropout(0.1)", "Dropout(0.0)").replace("+ 0.5", "+ 5.0")
    )
    done = commands(1, ["evaluate", tmp_path / "one", "--split", "valid"])
    assert done.code == 0, done.err
    again = json.loads((tmp_path / "one" / "evaluation" / "valid.json").read_text())
    assert again["metrics"]["rmse"] == pytest.approx(one["metrics"]["rmse"], rel=1e-10)


@pytest.mark.parametrize("method", [MCDropout, lambda m: Ensemble(m, 2)])
def test_layers_that_draw_weights_themselves_are_named_with_the_method_that_takes_them(method):
    vi = pytest.importorskip("torch_blue.vi")
    parts = [nn.Linear(3, 3), nn.Dropout(0.1), vi.VILinear(3, 2)]
    with pytest.raises(UsageError, match=r"2, a VILinear of torch_blue,.*'mean_field'"):
        method(nn.Sequential(*parts))
    with pytest.raises(UsageError, match=r"VISequential, a module of torch_blue,.*'mean_field'"):
        method(vi.VISequential(nn.Linear(3, 3), nn.Dropout(0.1), nn.Linear(3, 2)))
