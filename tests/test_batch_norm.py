"""Batch normalisation and other state: the same on any grid, and equal to plain torch."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from batch_norm_cases import CASES, S, X, Y, again, keeping, resnet, standardised
from conftest import launch
from torch import nn

from hpcsamp.collectives import Alone, distribute
from hpcsamp.errors import UsageError
from hpcsamp.losses import ELBO, Categorical, ExpectedNLL
from hpcsamp.methods import Ensemble, MeanField
from hpcsamp.models.norms import groups_of, to_groups

SCRIPT = Path(__file__).parent / "batch_norm_cases.py"


@pytest.mark.parametrize("grid", [(2, "none", "2"), (3, "3")], ids=["D=2, P=2", "P=3"])
def test_loss_weights_and_running_statistics_are_those_of_one_process(grid):
    ranks, *grids = grid
    done = launch(ranks, str(SCRIPT), *grids, timeout=240)
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert len(found) == 3 * len(CASES) * len(grids)
    assert {k: v for k, v in found.items() if v > 1e-10} == {}


def alone(strategy="loop", chunk=1, net=resnet, lr=0.1):
    method = MeanField(net(), initial_std=0.3, samples_per_pass=chunk)
    method.strategy = strategy
    optimizer = distribute(torch.optim.SGD(method.parameters(), lr), Alone(), method)
    return method, optimizer


def step(method, optimizer, samples=S):
    ELBO(ExpectedNLL(Categorical()), 8)(method, X, Y, samples=samples).backward()
    optimizer.step()
    optimizer.zero_grad()


@pytest.mark.parametrize("net", [resnet, keeping, standardised])
@pytest.mark.parametrize(("strategy", "chunk"), [("loop", 1), ("auto", 2), ("vmap", 3)])
def test_a_sample_is_what_plain_torch_makes_of_its_weights(net, strategy, chunk):
    if net is keeping and strategy == "vmap":
        return  # refused, see below
    method, optimizer = alone(strategy, chunk, net)
    weights = method.variables.random.named(method.draw(0, range(S)).detach())
    fixed = {n: v.clone() for n, v in method._fixed_views().items()}
    outputs, left = [], []
    for s in range(S):
        plain = net()
        own = dict(plain.named_parameters())
        for name, value in weights.items():
            own[name].data = value[s]
        for name, value in fixed.items():
            own[name].data = value
        outputs.append(plain(X))
        left.append(dict(plain.named_buffers()))
    assert torch.allclose(method(X, samples=range(S)), torch.stack(outputs), rtol=1e-10)
    step(method, optimizer)
    for name, buffer in method.module.named_buffers():
        values = [own[name].double() for own in left]
        mean = sum(values) / S
        if name.endswith(("_u", "_v")):  # what power iterations keep has length one
            mean = mean / mean.norm()
        assert torch.allclose(buffer.double(), mean, rtol=1e-10, atol=1e-14), name


def test_state_advances_once_a_step_whatever_is_evaluated_between():
    (method, optimizer), (other, other_optimizer) = alone(), alone()
    for _ in range(2):
        step(method, optimizer)
        with torch.no_grad():
            other(X * 3, samples=range(2))  # e.g. to look at it
        with other.predicting():
            other(X[:1], samples=range(2))
        ELBO(ExpectedNLL(Categorical()), 8)(other, X, Y, samples=S)  # a closure's first call
        step(other, other_optimizer)
    for name, buffer in method.module.named_buffers():
        assert torch.equal(buffer, dict(other.module.named_buffers())[name]), name
    assert int(method.module[1].num_batches_tracked) == 2


def test_a_run_goes_on_to_the_bit():
    for net in (resnet, keeping):
        whole, optimizer = alone(net=net)
        for _ in range(2):
            step(whole, optimizer)
        part, _ = alone(net=lambda net=net: net(7))
        part.load_state_dict({k: v.clone() for k, v in whole.state_dict().items()})
        again = distribute(torch.optim.SGD(part.parameters(), 0.1), Alone(), part)
        part.step = whole.step
        for _ in range(2):
            step(whole, optimizer)
            step(part, again)
        one, other = whole.held(), part.held()
        assert all(torch.equal(one[n], other[n]) for n in one)


@pytest.mark.parametrize("net", [resnet, keeping])
def test_what_is_computed_again_advances_nothing(net):
    found = []
    for of in (net, again(net)):
        method, optimizer = alone(net=of)
        step(method, optimizer)
        found.append((method.mean, [b for _, b in method.module.named_buffers()]))
    assert torch.allclose(found[0][0], found[1][0], rtol=1e-12, atol=1e-14)
    assert all(torch.equal(a, b) for a, b in zip(found[0][1], found[1][1], strict=True))


def test_frozen_statistics_stay_and_are_used_in_training():
    method, optimizer = alone()
    method.batch_norm = "frozen"
    with torch.no_grad():
        method.module[1].running_var.fill_(4.0)
    half = method(X[:4], samples=range(2))
    assert torch.allclose(method(X, samples=range(2))[:, :4], half, rtol=1e-12)
    before = {n: b.clone() for n, b in method.module.named_buffers() if "running" in n}
    step(method, optimizer)
    after = dict(method.module.named_buffers())
    assert all(torch.equal(after[n], b) for n, b in before.items())


def test_what_cannot_be_is_refused_with_its_layer():
    net = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    x = torch.randn(4, 3)
    with pytest.raises(UsageError, match="1, a BatchNorm1d, normalises over a batch with 1 value"):
        MeanField(net)(x[:1], samples=range(2))
    net[1] = nn.BatchNorm1d(3, track_running_stats=False)
    with pytest.raises(UsageError, match="1, a BatchNorm1d, makes an item's outputs depend"):
        Ensemble(net, 2)(x, samples=range(2))
    method, _ = alone("vmap", 3, keeping)
    with pytest.raises(UsageError, match=r"not possible: .* changes .* separately for each sample"):
        method(X, samples=range(3))


def test_batch_norm_becomes_group_norm_or_is_refused():
    net = resnet()
    scale = net[3].norm.weight
    found = to_groups(net)
    kinds = [type(m) for m in found.modules()]
    assert nn.BatchNorm2d not in kinds
    assert found[3].norm.weight is scale
    alone, among = (found(X[rows])[0] for rows in (slice(1), slice(None)))
    assert torch.allclose(alone, among, rtol=1e-12)
    assert [groups_of(n) for n in (3, 4, 8, 12, 64, 96, 1024)] == [1, 1, 2, 3, 16, 24, 32]
    assert isinstance(to_groups(nn.BatchNorm1d(8)), nn.GroupNorm)

    class Activated(nn.BatchNorm2d):
        def forward(self, x):
            return super().forward(x).relu()

    with pytest.raises(UsageError, match="0, a Activated, does more than nn"):
        to_groups(nn.Sequential(Activated(3)))
    with pytest.raises(UsageError, match="Linear has no batch normalisation"):
        to_groups(nn.Linear(3, 3))


def test_a_batch_in_parts_is_refused_under_batch_norm():
    for net in (resnet, keeping):
        method, _ = alone(net=net)
        loss = ELBO(ExpectedNLL(Categorical()), 8, accumulate=2)
        with pytest.raises(UsageError, match="accumulate = 2 splits a batch into parts, but the"):
            loss(method, X, Y, samples=S)
    method, _ = alone()
    method.batch_norm = "frozen"
    loss(method, X, Y, samples=S).backward()


CODE = """
from torch import nn

def net(in_shape=(3,), outputs=2):
    norms = [nn.BatchNorm1d(8), nn.utils.parametrizations.spectral_norm(nn.Linear(8, 8))]
    return nn.Sequential(nn.Linear(3, 8), *norms, nn.ReLU(), nn.Linear(8, outputs))
"""


def test_runs_with_batch_norm_are_the_same_on_a_grid_and_go_on(tmp_path, commands, monkeypatch):
    (tmp_path / "ownnet.py").write_text(CODE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    x = torch.randn(60, 3, generator=torch.Generator().manual_seed(1)).numpy()
    np.savez(tmp_path / "set.npz", x=x, y=x[:, :1], x_valid=x[:30], y_valid=x[:30, :1])
    config = tmp_path / "run.toml"
    config.write_text(
        f"""task = "regression"
[data]
path = "{tmp_path / "set"}"
batch = 20
[model]
name = "ownnet:net"
[method]
samples = 3
[loss]
name = "predictive_nll"
memory = "recompute"
[training]
epochs = 2
precision = "float64"
"""
    )
    train = ["train", config, "--output"]
    settings = {
        "field": (),
        "members": ("method.name=ensemble", "loss.name=expected_nll", "loss.memory=auto"),
        "frozen": ("model.batch_norm=frozen",),
        "group": ("model.batch_norm=group",),
    }
    runs = {name: [f"--set={s}" for s in own] for name, own in settings.items()}
    done = commands(
        1,
        ["ingest", "npz", tmp_path / "set.npz", "--out", tmp_path / "set"],
        *([*train, tmp_path / "1" / n, *own] for n, own in runs.items()),
        [*train, tmp_path / "again", "--set=training.steps=4"],
        [*train, tmp_path / "again", "--resume", "--set=training.steps=6"],
    )
    assert done.code == 0, done.err
    apart = ["--set=parallel.samples=none", "--set=parallel.collectives=mpi"]
    done = commands(2, *([*train, tmp_path / "2" / n, *own, *apart] for n, own in runs.items()))
    assert done.code == 0, done.err
    assert "1 normalisations over the batch of 2 data groups: 6 exchanges per step" in done.out

    def read(name):
        return json.loads((tmp_path / name / "summary.json").read_text())

    for name in runs:
        one, two = read(f"1/{name}")["metrics"], read(f"2/{name}")["metrics"]
        assert one == pytest.approx(two, rel=1e-10, abs=1e-12), name
    assert read("again")["parameters_sha256"] == read("1/field")["parameters_sha256"]
    assert read("again")["metrics"] == pytest.approx(read("1/field")["metrics"], rel=1e-12)
    assert read("1/frozen")["metrics"]["nll"] != read("1/field")["metrics"]["nll"]
