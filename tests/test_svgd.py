"""SVGD: its published direction, the posterior of a linear model, any grid, refusals."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch
from test_truth import NOISE, PRIOR, N, data
from torch import nn

from hpcsamp.collectives import Alone, distribute
from hpcsamp.errors import UsageError
from hpcsamp.losses import ELBO, ExpectedNLL, Gaussian
from hpcsamp.methods import SVGD
from hpcsamp.methods.further_inputs import FurtherInputs


def linear(member: int, inputs: int = 2) -> nn.Module:
    torch.manual_seed(member)
    return nn.Linear(inputs, 1, bias=False).double()


def made(samples, make=linear, optimizer=torch.optim.SGD, lr=0.1, **settings):
    """A method and its optimiser for the data of this file."""
    method = SVGD(make, samples, prior_std=PRIOR, samples_per_pass=samples, **settings)
    method.begin(N, 1, 1)
    return method, distribute(optimizer(method.parameters(), lr=lr), Alone(), method)


def regression(inputs=2):
    x, y = data()
    return x[:, :inputs], y


def loss_of(method, x, y):
    loss = ELBO(ExpectedNLL(Gaussian(NOISE)), N, memory="keep")
    return loss(method, x, y, samples=method.samples)


@pytest.mark.parametrize(("kernel", "inputs"), [("rbf", 1), ("imq", 2)])
def test_moments_are_those_of_the_posterior(kernel, inputs):
    """In closed form; source: Bishop 2006, section 3.3."""
    x, y = regression(inputs)
    precision = x.T @ x / NOISE**2 + torch.eye(inputs).double() / PRIOR**2
    covariance = torch.linalg.inv(precision)
    mean, std = (covariance @ x.T @ y / NOISE**2)[:, 0], covariance.diagonal().sqrt()
    method, optimizer = made(
        64, partial(linear, inputs=inputs), torch.optim.Adam, lr=0.2, kernel=kernel
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 200)
    for _ in range(200):
        loss_of(method, x, y).backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    found = method.weights.detach()
    assert ((found.mean(0) - mean).abs() / std).max() < 0.05
    assert (found.std(0) / std - 1).abs().max() < 0.05


@pytest.mark.parametrize(
    ("flow", "kernel", "bandwidth"),
    [("stein", "rbf", "median"), ("stein", "imq", 0.7), ("wasserstein", "rbf", 0.3)],
)
def test_the_direction_is_the_published_one(flow, kernel, bandwidth):
    """Kernel and its gradients by autograd, one pair after the other."""
    method, optimizer = made(5, flow=flow, kernel=kernel, bandwidth=bandwidth, lr=0.1)
    w = method.weights.detach().clone().requires_grad_()
    x, y = regression()
    each = ((w @ x.T - y[:, 0]) ** 2 / (2 * NOISE**2)).mean(1) + (w**2).sum(1) / (2 * N * PRIOR**2)
    (g,) = torch.autograd.grad(each.sum(), w)
    far = [(w[i] - w[j]).norm().item() for i in range(5) for j in range(i)]
    h = sorted(far)[4:6] if bandwidth == "median" else bandwidth
    h = (sum(h) / 2) ** 2 / math.log(5) if bandwidth == "median" else h

    def pair(i, j):
        """The kernel, and its gradients with respect to particles i and j."""
        a, b = w[i].detach().requires_grad_(), w[j].detach().requires_grad_()
        d = (a - b).square().sum() / h
        k = (-d).exp() if kernel == "rbf" else (1 + d) ** -0.5
        return k, *torch.autograd.grad(k, (a, b), retain_graph=True)

    directions = []
    for i in range(5):
        found = [pair(i, j) for j in range(5)]
        if flow == "stein":
            wanted = sum(k * g[j] - of_j / N for j, (k, _, of_j) in enumerate(found)) / 5
        else:
            total = sum(k for k, _, _ in found)
            wanted = g[i] + sum(of_i for _, of_i, _ in found) / (N * total)
        directions.append(wanted)
    before = method.weights.detach().clone()
    loss_of(method, x, y).backward()
    raw = method.weights.grad.clone()
    optimizer.step()
    assert torch.allclose(
        (before - method.weights) / 0.1, torch.stack(directions), rtol=1e-12, atol=1e-13
    )
    assert torch.equal(method.weights.grad, raw)  # it may be added to, or used again
    assert torch.allclose(raw, g, rtol=1e-12)


class Shifted(nn.Module):
    """A linear model with a shift that has no uncertainty."""

    deterministic = ("shift",)

    def __init__(self, member):
        super().__init__()
        self.shift = nn.Parameter(torch.full((1,), float(member)).double())
        self.of = linear(member)

    def forward(self, x):
        return self.of(x) + self.shift


def test_weights_without_uncertainty_follow_their_own_gradient():
    method, optimizer = made(3, Shifted, bandwidth=0.5)
    assert method.layout.names == ["shift", "of.weight"]
    x, y = regression()
    before = method.weights.detach().clone()
    loss_of(method, x, y).backward()
    raw = method.weights.grad.clone()
    optimizer.step()
    moved = (before - method.weights.detach()) / 0.1
    assert torch.allclose(moved[:, 0], raw[:, 0], rtol=1e-12)
    kernel = (-(torch.cdist(before[:, 1:], before[:, 1:]) ** 2) / 0.5).exp()
    push = kernel.sum(1, keepdim=True) * before - kernel @ before
    wanted = kernel @ raw / 3 - push * 2 / 0.5 / (3 * N)
    assert torch.allclose(moved[:, 1:], wanted[:, 1:], rtol=1e-10)


def network(member):
    torch.manual_seed(member)
    return nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2)).double()


@pytest.mark.parametrize(
    ("passes", "memory", "accumulate", "flow", "further"),
    [
        (4, "keep", 1, "wasserstein", 0),
        (1, "stream", 3, "wasserstein", 7),
        (3, "recompute", 1, "stein", 0),
        (1, "stream", 3, "stein", 7),
        (4, "keep", 1, "stein", 7),
    ],
)
def test_functions_repel_each_other_by_the_published_direction(
    passes, memory, accumulate, flow, further, tmp_path
):
    """With whole Jacobians; source: D'Angelo and Fortuin 2021, section 3.2; Wang et al. 2019."""
    table = torch.randn(9, 2, generator=torch.Generator().manual_seed(5)).double()
    np.save(tmp_path / "t.npy", table.numpy())
    file = str(tmp_path / "t.npy") if further and passes == 1 else None
    method = SVGD(
        network, 4, prior_std=PRIOR, flow=flow, space="function", bandwidth=20.0,
        samples_per_pass=passes, space_inputs=further, space_table=file,
    )  # fmt: skip
    method.begin(N, 1, 1)
    optimizer = distribute(torch.optim.SGD(method.parameters(), lr=0.01), Alone(), method)
    x, y = torch.randn(5, 2).double(), torch.randn(5, 2).double()
    loss = ELBO(ExpectedNLL(Gaussian(NOISE)), N, memory=memory, accumulate=accumulate)
    for again in range(2):  # nothing of the first step is left in the second
        w = method.weights.detach().clone()
        loss(method, x + again, y, samples=4).backward()
        raw = method.weights.grad.clone()
        optimizer.step()
        optimizer.zero_grad()

        module = network(0)
        z = FurtherInputs(further, file, method.seed).draw(again, x)

        both = torch.cat([x + again, z])

        def outputs(row, x=both, module=module):
            named = {n: v[0] for n, v in method.layout.named(row[None]).items()}
            return torch.func.functional_call(module, named, x).flatten()

        f = torch.stack([outputs(row) for row in w])
        of_data = torch.zeros_like(f)  # gradient of the mean over 5 items
        of_data[:, :10] = (f[:, :10] - y.flatten()) / NOISE**2 / 5
        kernel = (-(torch.cdist(f, f) ** 2) / 20).exp()
        for i in range(4):
            push = sum(-2 / 20 * kernel[i, j] * (f[i] - f[j]) for j in range(4))
            jacobian = torch.func.jacrev(outputs)(w[i])
            if flow == "stein":
                pull = (kernel[i] @ of_data + push / N) / 4 - of_data[i]
            else:
                pull = push / (N * kernel[i].sum())
            wanted = raw[i] + jacobian.T @ pull
            moved = (w[i] - method.weights[i]) / 0.01
            assert torch.allclose(moved, wanted, rtol=1e-10, atol=1e-11)
            assert not torch.allclose(raw[i], wanted, rtol=1e-6)


def test_further_inputs_differ_between_steps_and_must_fit(tmp_path):
    like, path = torch.zeros(3, 2), tmp_path / "t.npy"
    drawn = FurtherInputs(5, None, 1)
    assert torch.equal(drawn.draw(2, like), FurtherInputs(5, None, 1).draw(2, like[:1]))
    assert not torch.equal(drawn.draw(2, like), drawn.draw(3, like))
    np.save(path, np.arange(12).reshape(6, 2))
    rows = FurtherInputs(4, str(path), 1).draw(0, like)
    assert len({tuple(row) for row in rows.tolist()} & {(2 * n, 2 * n + 1) for n in range(6)}) == 4
    (tmp_path / "bad.npy").write_text("none")
    np.save(tmp_path / "words.npy", np.array([["a", "b"]] * 6))
    np.save(tmp_path / "nan.npy", np.full((6, 2), np.nan))
    np.save(tmp_path / "big_endian.npy", np.arange(12).reshape(6, 2).astype(">f4"))
    assert torch.equal(FurtherInputs(4, str(tmp_path / "big_endian.npy"), 1).draw(0, like), rows)
    for count, file, words in (
        (-1, None, "method.space_inputs = -1"),
        (0, path, "needs method.space_inputs"),
        (7, path, r"at least method.space_inputs = 7 rows; its shape is \(6, 2\)"),
        (1, tmp_path / "no.npy", r"no\.npy': No such file"),
        (1, tmp_path / "bad.npy", r"bad\.npy' is no array of numbers"),
        (1, tmp_path / "words.npy", "must hold real numbers, not <U1"),
    ):
        with pytest.raises(UsageError, match=words):
            _ = FurtherInputs(count, file and str(file), 1).table
    with pytest.raises(UsageError, match="a value that is not finite"):
        FurtherInputs(4, str(tmp_path / "nan.npy"), 1).draw(0, like)
    with pytest.raises(UsageError, match=r"rows of shape \(2,\), but an input .* has \(3,\)"):
        FurtherInputs(1, str(path), 1).draw(0, torch.zeros(1, 3))
    with pytest.raises(UsageError, match=r"inputs have the type torch\.int64"):
        drawn.draw(0, like.long())
    elsewhere = {"flow": "wasserstein", "space": "function", "space_inputs": 2}
    predicts = SVGD(linear, 3, **elsewhere, space_table=str(tmp_path / "no.npy"))
    with pytest.raises(UsageError, match=r"no\.npy"):
        predicts.begin(N, 1, 1)
    with pytest.raises(UsageError, match=r"method\.space = 'weights'; set it to 'function'"):
        SVGD(linear, 3, space_inputs=2)


class Normalised(nn.Module):
    def __init__(self, member):
        super().__init__()
        self.of = nn.Sequential(linear(member), nn.BatchNorm1d(1).double())

    def forward(self, x):
        return self.of(x)


def test_functions_need_the_passes_of_a_step_and_no_statistics_of_a_batch():
    space = {"flow": "wasserstein", "space": "function"}
    x, y = regression()
    method, optimizer = made(3, **space)
    method.weights.grad = torch.ones_like(method.weights)
    with pytest.raises(UsageError, match="needs the outputs of the step"):
        optimizer.step()
    method, optimizer = made(3, Normalised, **space)
    loss_of(method, x, y).backward()
    with pytest.raises(UsageError, match="normalises over the whole batch"):
        optimizer.step()
    method, optimizer = made(3, **space | {"flow": "stein"})
    loss_of(method, x, y).backward()
    with pytest.raises(UsageError, match="a GradScaler scales it"):
        method.direct(Alone(), 2.0)


def test_what_it_cannot_be_trained_with_is_refused():
    for given, words in (
        ({"samples": 1}, "method.samples = 1: a kernel between particles needs at least 2"),
        ({"flow": "stine"}, "method.flow = 'stine'; choose from stein, wasserstein"),
        ({"kernel": "laplace"}, "method.kernel = 'laplace'; choose from rbf, imq"),
        ({"kernel": "imq", "flow": "wasserstein"}, "method.kernel = 'imq' cannot estimate"),
        ({"bandwidth": 0.0}, "method.bandwidth = 0.0 must be"),
        ({"bandwidth": "mean"}, "method.bandwidth = 'mean' must be"),
        ({"prior_std": -1.0}, "method.prior_std = -1.0 must be"),
    ):
        with pytest.raises(UsageError, match=words):
            SVGD(linear, **{"samples": 3} | given)
    with pytest.raises(UsageError, match="'crps' combines all S samples"):
        SVGD(linear, 3).check_loss("crps", False)
    with pytest.raises(UsageError, match=r"call method\.begin"):
        distribute(torch.optim.SGD((method := SVGD(linear, 3)).parameters()), Alone(), method)
    with pytest.raises(UsageError, match=r"optimizer\.weight_decay = 0\.01 of AdamW would move"):
        made(3, optimizer=torch.optim.AdamW)
    with pytest.raises(UsageError, match="LBFGS"):
        made(3, optimizer=torch.optim.LBFGS)
    method, optimizer = made(5, lambda member: linear(member // 4))
    x, y = regression()
    loss_of(method, x, y).backward()
    with pytest.raises(UsageError, match="median distance of the particles is 0"):
        optimizer.step()
