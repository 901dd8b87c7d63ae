"""Buckets: parts of the gradient that are exchanged under the rest of the backward pass."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import hpcsamp as hs
from hpcsamp.collectives import Alone, FlatGradient, choose
from hpcsamp.collectives.buckets import Buckets, cut, units_of
from hpcsamp.errors import UsageError
from hpcsamp.grid import init
from hpcsamp.methods import Ensemble, Flipout, MCDropout, MeanField


class Two(Alone):
    """Two data groups of one rank with the same batches; writes down what happens."""

    data_size = 2

    def __init__(self):
        super().__init__()
        self.events = []

    def sum_(self, x, over):
        x.mul_(2)

    def tell(self, thing, over):
        return [thing, thing]

    def sum_gradient_(self, x, over):
        self.events.append("all at once")
        x.mul_(2)

    def begin_sum_gradient(self, x, over):
        assert over == "replicas"
        self.events.append((x.storage_offset(), x.storage_offset() + len(x)))
        x.mul_(2)
        return lambda: self.events.append("waited")


class Marked(nn.Linear):
    """Writes down when its backward pass begins."""

    def forward(self, x):
        y = super().forward(x)
        if y.requires_grad:
            y.register_hook(lambda _: self.events.append(self.name))
        return y


def layers(events):
    """Three layers of 12 numbers."""
    torch.manual_seed(1)
    network = nn.Sequential(*(Marked(3, 3) for _ in range(3)))
    for place, layer in enumerate(network):
        layer.events, layer.name = events, f"layer {place}"
    return network


LAST, MIDDLE, FIRST = (24, 36), (12, 24), (0, 12)  # weights of the layers


def distributed(ranks, method, count):
    optimizer = torch.optim.SGD(method.parameters(), lr=0.1)
    return hs.distribute(optimizer, ranks, method, buckets=count)


def test_late_layers_are_exchanged_while_early_ones_are_passed():
    ranks = Two()
    method = MCDropout(layers(ranks.events), rate=0.5)
    optimizer = distributed(ranks, method, 3)
    for scale in (1, 2):
        optimizer.zero_grad()
        loss = method(torch.ones(4, 3), samples=range(1)).square().sum() * scale
        (alone, *_) = torch.autograd.grad(loss, list(method.parameters()), retain_graph=True)
        ranks.events.clear()
        loss.backward()
        assert ranks.events == [
            "layer 2", LAST, "layer 1", MIDDLE, "layer 0", FIRST, "waited", "waited", "waited",
        ]  # fmt: skip
        found = next(method.parameters()).grad
        torch.testing.assert_close(found, alone, rtol=1e-6, atol=0)


def test_parameters_without_a_gradient_are_exchanged_at_the_end():
    ranks, parameters = Two(), [nn.Parameter(torch.zeros(1)) for _ in range(6)]
    gradient = FlatGradient(parameters)
    plan = cut(units_of(gradient), 100)
    buckets = Buckets(gradient.flat, plan, ranks)
    parameters[4].grad.fill_(3)
    buckets.complete(4)  # the last one was not written to
    assert ranks.events == []
    assert buckets.end()
    assert [e for e in ranks.events if e != "waited"] == [(i, i + 1) for i in reversed(range(6))]
    assert gradient.flat.tolist() == [0, 0, 0, 0, 6, 0]
    gradient.flat.fill_(torch.inf)
    buckets = Buckets(gradient.flat, plan, ranks)
    buckets.complete(5)
    with pytest.raises(UsageError, match="added to twice in one backward pass"):
        buckets.complete(5)
    assert not buckets.end()


def test_a_gradient_that_was_replaced_is_copied_before_it_is_exchanged():
    ranks = Two()
    method = MCDropout(layers(ranks.events), rate=0.0)
    distributed(ranks, method, 3)
    weight = method.networks[0][2].weight
    weight.grad = torch.full_like(weight, 5.0)  # no part of the flat tensor
    ranks.events.clear()
    method(torch.zeros(4, 3), samples=range(1))[..., 0].sum().backward()
    assert ranks.events.index(LAST) > ranks.events.index("layer 0")
    assert weight.grad[1].tolist() == [5.0] * 3


def test_sizes_are_nearly_equal():
    parameters = [nn.Parameter(torch.zeros(n)) for n in (1, 1, 1, 50, 1, 1, 30, 20)]
    gradient = FlatGradient(parameters)
    for count, expected in {
        1: [105],
        2: [52, 53],
        3: [20, 32, 53],
        100: [20, 30, 1, 1, 50, 1, 1, 1],
    }.items():
        stretches = [s for bucket in cut(units_of(gradient), count) for s in bucket.stretches]
        assert [s.stop - s.start for s in stretches] == expected, count
        assert stretches[-1].start == 0
        assert [s.start for s in stretches[:-1]] == [s.stop for s in stretches[1:]]


def test_units_in_several_places_are_joined_with_their_neighbours():
    units = [[slice(40, 45)], *([slice(a, a + 10), slice(a + 20, a + 30)] for a in (0, 10))]
    assert [b.stretches for b in cut(units, 1)] == [[slice(0, 45)]]
    assert [b.stretches for b in cut(units, 2)] == [
        [slice(10, 20), slice(30, 40)],
        [slice(0, 10), slice(20, 30), slice(40, 45)],
    ]


def mean_field(events=None, norm=False, **settings):
    network = layers([] if events is None else events)
    if norm:  # deterministic parameters, of which one is not used
        network.append(nn.LayerNorm(3)).append(nn.LayerNorm(3))
        network[-1].forward = lambda x: x * network[-1].weight
    return MeanField(network, seed=2, **settings).double()


def gradient_of(ranks, method, count, memory="stream", accumulate=1, other=0.0, passes=1):
    """The gradient of two losses whose factors are 1 and 3, and of a term beside them."""
    optimizer = distributed(ranks, method, count)
    kind = "predictive_nll" if memory == "recompute" else "expected_nll"
    loss = hs.losses.ELBO(
        hs.losses.make(kind, "classification"), 50, ranks, memory=memory, accumulate=accumulate
    )
    draw = torch.Generator().manual_seed(2)
    for _ in range(passes):
        x = torch.randn(5, 3, dtype=torch.float64, generator=draw)
        y = torch.randint(0, 3, (5,), generator=draw)
        both = sum(factor * loss(method, x + factor, y, samples=3, count=5) for factor in (1, 3))
        if other:
            both = both + other * method.mean.square().sum()
        both.backward()
    found = torch.cat([p.grad.flatten() for p in method.parameters() if p.requires_grad])
    optimizer.step()
    return found


@pytest.mark.parametrize(
    ("settings", "options"),
    [
        ({"samples_per_pass": 1}, {}),
        ({"samples_per_pass": 2, "norm": True}, {"memory": "recompute", "accumulate": 2}),
        ({"samples_per_pass": 3, "norm": True, "antithetic": True}, {"other": 0.7, "passes": 2}),
    ],
)
def test_mean_field_has_the_same_gradient(settings, options):
    expected = gradient_of(Alone(), mean_field(**settings), 1, **options)
    for count in (2, 3, 100):
        ranks = Two()
        found = gradient_of(ranks, mean_field(ranks.events, **settings), count, **options)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
        assert ranks.events.count("all at once") == (2 if options.get("other") else 0)
    frozen = []
    for ranks, count in ((Alone(), 1), (Two(), 3)):
        method = mean_field(**settings)
        method.log_std.requires_grad_(False)
        frozen.append(gradient_of(ranks, method, count, **options))
    torch.testing.assert_close(*frozen, rtol=1e-12, atol=1e-14)


def test_mean_field_is_exchanged_under_the_backward_pass_of_the_last_samples():
    ranks = Two()
    method = mean_field(ranks.events, samples_per_pass=1)
    distributed(ranks, method, 3)
    loss = hs.losses.ELBO(hs.losses.make("expected_nll", "classification"), 50, ranks)
    x, y = torch.ones(4, 3, dtype=torch.float64), torch.arange(4) % 3
    loss(method, x, y, samples=2)
    ranks.events.clear()
    value = loss(method, x, y, samples=2)
    sent = [[(a, b), (a + 36, b + 36)] for a, b in (LAST, MIDDLE, FIRST)]  # means, log_stds
    layer = [f"layer {place}" for place in (2, 1, 0)]
    assert ranks.events == [
        *layer, layer[0], *sent[0], layer[1], *sent[1], layer[2], *sent[2], *["waited"] * 6,
    ]  # fmt: skip
    ranks.events.clear()
    value.backward()
    assert ranks.events == []


@pytest.mark.parametrize(
    ("kind", "settings", "why"),
    [
        ("predictive_nll", {}, 'needs loss.memory = "recompute"'),
        ("expected_nll", {"kl": "monte_carlo"}, "gradients that are complete only at the end"),
        ("importance_weighted_elbo", {}, "gradients that are complete only at the end"),
    ],
)
def test_losses_whose_gradient_is_not_exchanged_in_buckets(kind, settings, why):
    ranks, x, y = Two(), torch.ones(4, 3, dtype=torch.float64), torch.arange(4) % 3
    method = mean_field()
    distributed(ranks, method, 2)
    loss = hs.losses.ELBO(hs.losses.make(kind, "classification"), 50, ranks, **settings)
    with pytest.raises(UsageError, match=f"^parallel.buckets is not possible .*{why}") as error:
        loss(method, x, y, samples=2)
    assert "\n" not in str(error.value)
    with torch.no_grad():  # as in evaluations
        assert loss(method, x, y, samples=2).isfinite()


@pytest.mark.parametrize(
    ("method", "settings", "why"),
    [
        (lambda: Flipout(nn.Linear(2, 1)), {}, "flat tensors, which are complete only"),
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


METHODS = {
    "dropout": lambda net: MCDropout(net, rate=0.3, masks="item", prior_std=2.0),
    "mean field": lambda net: MeanField(net, samples_per_pass=2, bayesian=["*.weight"]),
}


def trained(topology, transport, buckets, kind):
    """Weights of an uneven network after some steps of an uneven number of samples."""
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(3, 7), nn.Tanh(), nn.Linear(7, 40), nn.Tanh(), nn.Linear(40, 2))
    method = METHODS[kind](net).double()
    memory = "recompute" if method.draws_weights else "keep"
    data = hs.losses.make("predictive_nll", "classification")
    loss = hs.losses.ELBO(data, 50, transport, memory=memory)
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


def order(transport):
    """What happens in a loss of mean field, with the exchanges of a transport."""
    events, begin = [], transport.begin_sum_gradient

    def begun(x, over):
        events.append("sent")
        return begin(x, over)

    transport.begin_sum_gradient = begun
    method = mean_field(events, samples_per_pass=1)
    optimizer = distributed(transport, method, 3)  # which keeps the exchange alive
    loss = hs.losses.ELBO(hs.losses.make("expected_nll", "classification"), 50, transport)
    x, y = torch.ones(4, 3, dtype=torch.float64), torch.arange(4) % 3
    loss(method, x, y, samples=4)
    del transport.begin_sum_gradient, optimizer
    return events


@pytest.mark.mpi(ranks=4, timeout=90, unit="s")
def test_the_number_of_buckets_changes_nothing(comm):
    topology, single = init(2), init(1)
    one = type("One", (), {"data_rank": 0, "data_size": 1})
    for kind, counts in {"dropout": (1, 2, 3, 100), "mean field": (1, 3, 100)}.items():
        reference = trained(one, Alone(), 1, kind)
        for name in ("mpi", "torch", "horovod"):
            for count in counts:
                found = trained(topology, choose(topology, name), count, kind)
                torch.testing.assert_close(found, reference, rtol=1e-12, atol=1e-14)
    transport = choose(topology, "mpi")
    passed = [f"layer {place}" for place in (2, 1, 0)]
    found = order(transport)
    assert found[-9:] == [e for layer in passed for e in (layer, "sent", "sent")], found
    with pytest.raises(UsageError, match="buckets"):  # ranks that do not agree
        trained(topology, transport, 2 + topology.rank % 2, "dropout")
    assert single.size == 4
