"""Batches in uneven parts, and of several samples at once, are normalised like a whole by torch."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from hpcsamp.weights.normalised import by_moments, by_whole_batch, in_one, moments, moments_over
from hpcsamp.weights.put import Put

EPS = 1e-5
SIZES = (5, 1, 3)


class Threads:
    """The data group of a thread; each thread has a part of the batch."""

    size = len(SIZES)
    meet, told = Barrier(size, timeout=60), [torch.empty(0)] * size

    def __init__(self, rank: int) -> None:
        self.rank = rank

    def gathered(self, own: Tensor) -> Tensor:
        self.told[self.rank] = own.clone()
        self.meet.wait()
        found = torch.stack(self.told)
        self.meet.wait()
        return found

    def sum_(self, own: Tensor) -> None:
        own.copy_(self.gathered(own).sum(0))


@pytest.mark.parametrize("mean", [0.0, 1e3])
@pytest.mark.parametrize("more", [(), (2, 3)])
def test_uneven_parts_of_a_batch_are_one_batch(mean, more):
    g = torch.Generator().manual_seed(1)
    x, upstream = torch.randn(2, 2, sum(SIZES), 4, *more, generator=g, dtype=torch.float64)
    whole = (x + mean).requires_grad_()
    truth = torch.stack([F.batch_norm(s, None, None, training=True, eps=EPS) for s in whole])
    (gradient,) = torch.autograd.grad((truth * upstream).sum(), whole)
    parts = [t.split(SIZES, 1) for t in (whole.detach(), upstream)]

    def of_a_rank(rank: int) -> tuple[Tensor, Tensor, Tensor]:
        group, own = Threads(rank), parts[0][rank].clone().requires_grad_()
        found = moments_over(group, moments(own))
        y = by_whole_batch(own, found, EPS, group)
        (dx,) = torch.autograd.grad((y * parts[1][rank]).sum(), own)
        return y.detach(), dx, found.variance

    with ThreadPoolExecutor(len(SIZES)) as pool:
        ys, dxs, variances = zip(*pool.map(of_a_rank, range(len(SIZES))), strict=True)
    expected = torch.stack([s.transpose(0, 1).flatten(1).var(1, correction=0) for s in whole])
    torch.testing.assert_close(variances[0], expected, rtol=1e-9, atol=0)
    torch.testing.assert_close(torch.cat(ys, 1), truth, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(torch.cat(dxs, 1), gradient, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("more", [(), (2, 3)])
def test_samples_are_normalised_each_by_itself_in_one_operation(k, more):
    g = torch.Generator().manual_seed(1)
    x = torch.randn(k, 6, 4, *more, generator=g, dtype=torch.float64)
    x = x * torch.arange(1, k + 1).view(-1, 1, 1, *[1] * len(more)) + 3
    done = in_one(x, None, None, EPS)
    assert done is not None
    y, found = done
    truth = torch.stack([F.batch_norm(s, None, None, training=True, eps=EPS) for s in x])
    torch.testing.assert_close(y, truth, rtol=1e-12, atol=1e-12)
    other = moments(x)
    assert found.number == other.number == 6 * (6 if more else 1)
    for one, expected in zip(found[:2], other[:2], strict=True):
        torch.testing.assert_close(one, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(by_moments(x, other, EPS), truth, rtol=1e-10, atol=1e-12)


def test_statistics_of_a_single_value_have_no_operation():
    assert in_one(torch.ones(2, 1, 4), None, None, EPS) is None


def test_a_value_is_found_under_its_first_name_whatever_was_found_before():
    net = torch.nn.Sequential(torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 3), torch.nn.Linear(3, 3))
    net[2].weight = net[1].weight
    put, names = Put(net), ["2.bias", "0.running_mean", "1.weight", "0.weight", "1.bias"]
    for name in [*names, *reversed(names)]:
        assert put.name_of(put.held(name)) == name
    assert put.name_of(net[2].weight) == "1.weight"
    assert put.name_of(torch.zeros(3)) is None
    drawn = torch.randn(3, 3)
    with put({"1.weight": drawn}):
        assert put.name_of(drawn) == "1.weight"
    assert put.name_of(drawn) is None
