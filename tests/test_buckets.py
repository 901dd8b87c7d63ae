"""Buckets: parts of the gradient that are exchanged under the rest of the backward pass."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import hpcsamp as hs
from hpcsamp.collectives import Alone, FlatGradient, choose
from hpcsamp.collectives.buckets import Buckets
from hpcsamp.errors import UsageError
from hpcsamp.grid import init
from hpcsamp.methods import Ensemble, MCDropout


class Two(Alone):
    """Two ranks with the same gradients; writes down what happens."""

    data_size = 2

    def __init__(self):
        super().__init__()
        self.events = []

    def begin_sum_gradient(self, x, over):
        assert over == "replicas"
        self.events.append((x.storage_offset(), x.storage_offset() + len(x)))
        x.mul_(2)
        return lambda: self.events.append("waited")


class Marked(nn.Linear):
    """Writes down when its backward pass begins."""

    def forward(self, x):
        y = super().forward(x)
        y.register_hook(lambda _: self.events.append(self.name))
        return y


def layers(events):
    """Three layers of 12 numbers."""
    network = nn.Sequential(*(Marked(3, 3) for _ in range(3)))
    for place, layer in enumerate(network):
        layer.events, layer.name = events, f"layer {place}"
    return network


def test_late_layers_are_exchanged_while_early_ones_are_passed():
    ranks = Two()
    network = layers(ranks.events)
    gradient = FlatGradient(network.parameters())
    buckets = Buckets(gradient, ranks, 3)
    for p in network.parameters():
        p.register_post_accumulate_grad_hook(buckets.wrote)
    for _ in range(2):
        gradient.zero()
        network(torch.ones(1, 3)).sum().backward()
        alone = gradient.flat.clone()
        assert buckets.send_rest()
        last, middle, first = (24, 36), (12, 24), (0, 12)
        assert ranks.events == [
            "layer 2", last, "layer 1", middle, "layer 0", first, "waited", "waited", "waited",
        ]  # fmt: skip
        torch.testing.assert_close(gradient.flat, alone / 2)  # sent in backward, twice as large
        ranks.events.clear()


def test_parameters_without_a_gradient_are_exchanged_at_the_end():
    ranks, network = Two(), nn.ModuleList(nn.Linear(1, 1) for _ in range(3))
    gradient = FlatGradient(network.parameters())
    buckets = Buckets(gradient, ranks, 100)
    sizes = [1] * 6
    network[2].weight.grad.fill_(3)
    buckets.wrote(network[2].weight)  # its bias, which comes before it, was not written to
    assert ranks.events == []
    network[2].bias.grad = torch.full((1,), torch.inf)  # replaced: no part of the flat tensor
    buckets.wrote(network[2].bias)
    assert ranks.events == []
    gradient.collect()
    assert not buckets.send_rest()
    assert [e[1] - e[0] for e in ranks.events[:6]] == sizes
    assert gradient.flat.tolist() == [0, 0, 0, 0, 3, torch.inf]
    buckets.wrote(network[2].bias)
    with pytest.raises(UsageError, match="added to twice in one backward pass"):
        buckets.wrote(network[2].bias)


def test_sizes_are_nearly_equal():
    parameters = [nn.Parameter(torch.zeros(n)) for n in (1, 1, 1, 50, 1, 1, 30, 20)]
    gradient = FlatGradient(parameters)
    for count, expected in {
        1: [105],
        2: [52, 53],
        3: [20, 32, 53],
        100: [20, 30, 1, 1, 50, 1, 1, 1],
    }.items():
        stretches = Buckets(gradient, Two(), count)._stretches
        assert [s.stop - s.start for s in stretches] == expected, count
        assert stretches[-1].start == 0
        assert [s.start for s in stretches[:-1]] == [s.stop for s in stretches[1:]]


@pytest.mark.parametrize(
    ("method", "settings", "why"),
    [
        (lambda: hs.MeanField(nn.Linear(2, 1)), {}, "flat tensors, which are complete only"),
        (lambda: MCDropout(nn.Linear(2, 1)), {"buckets": 0}, "= 0 must be a number of at least"),
        (lambda: MCDropout(nn.Linear(2, 1)), {"buckets": True}, "= True must be a number"),
        (
            lambda: Ensemble(lambda _: nn.Linear(2, 1), samples=2, own=range(2)),
            {},
            "hold different weights of Ensemble",
        ),
    ],
)
def test_what_cannot_be_exchanged_in_buckets(method, settings, why):
    made = method()
    optimizer = torch.optim.SGD(made.parameters(), lr=0.1)
    with pytest.raises(UsageError, match=why) as error:
        hs.distribute(optimizer, Alone(), made, **{"buckets": 2, **settings})
    assert "\n" not in str(error.value)


def trained(topology, transport, buckets, part=None):
    """Weights of an uneven network after some steps of an uneven number of samples."""
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(3, 7), nn.Tanh(), nn.Linear(7, 40), nn.Tanh(), nn.Linear(40, 2))
    method = MCDropout(net, rate=0.3, masks="item", prior_std=2.0).double()
    loss = hs.losses.ELBO(hs.losses.make("predictive_nll", "classification"), 50, transport)
    optimizer = torch.optim.Adam(method.parameters(), lr=1e-2)
    hs.distribute(optimizer, transport, method, buckets=buckets, clip=1.0)
    draw = torch.Generator().manual_seed(2)
    for _ in range(4):
        x = torch.randn(8, 3, dtype=torch.float64, generator=draw)
        y, index = torch.randint(0, 2, (8,), generator=draw), torch.arange(8)
        half = slice(topology.data_rank * 8 // topology.data_size, None)
        half = slice(half.start, half.start + 8 // topology.data_size)
        for _ in range(2):  # two backward passes before a step add up
            loss(method, x[half], y[half], samples=5, index=index[half]).backward()
        optimizer.step()
        optimizer.zero_grad()
    return torch.cat([p.detach().flatten() for p in method.parameters()])


@pytest.mark.mpi(ranks=4, timeout=90, unit="s")
def test_the_number_of_buckets_changes_nothing(comm):
    topology, single = init(2), init(1)
    reference = trained(type("One", (), {"data_rank": 0, "data_size": 1}), Alone(), 1)
    for name in ("mpi", "torch", "horovod"):
        for count in (1, 2, 3, 100):
            found = trained(topology, choose(topology, name), count)
            torch.testing.assert_close(found, reference, rtol=1e-12, atol=1e-14)
    transport = choose(topology, "mpi")
    with pytest.raises(UsageError, match="buckets"):  # ranks that do not agree
        trained(topology, transport, 2 + topology.rank % 2)
    assert single.size == 4
