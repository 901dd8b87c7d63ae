"""What exchanges cost: formulas against messages that are sent one by one."""

from __future__ import annotations

import math

import numpy as np
import pytest
from planning_cases import ALPHA, BETA, GAMMA, a_network

from hpcsamp.planning import network
from hpcsamp.planning.machine import Fabric, Wire
from hpcsamp.planning.network import Link, NodeSpread

LINK = Link(ALPHA, BETA, GAMMA)


class Wires:
    """Ranks that exchange in rounds; every round costs what its busiest rank sends and adds."""

    def __init__(self, ranks: int, size: int) -> None:
        generator = np.random.default_rng(ranks)
        self.data = generator.integers(0, 9, (ranks, size)).astype(float)
        self.total = self.data.sum(axis=0)
        self.seconds = 0.0

    def round(self, messages: list[tuple[int, int, slice]], add: bool) -> None:
        """Messages ``(from, to, part)`` at the same time."""
        before = self.data.copy()
        longest = 0
        for source, target, part in messages:
            if add:
                self.data[target, part] += before[source, part]
            else:
                self.data[target, part] = before[source, part]
            longest = max(longest, 8 * len(before[source, part]))
        self.seconds += ALPHA + longest * (BETA + GAMMA * add)


def ring(w: Wires, p: int) -> None:
    n = w.data.shape[1] // p
    for add, shift in ((True, 0), (False, 1)):
        for k in range(p - 1):
            parts = [(i + shift - k) % p for i in range(p)]
            w.round([(i, (i + 1) % p, slice(c * n, (c + 1) * n)) for i, c in enumerate(parts)], add)


def doubling(w: Wires, p: int) -> None:
    for k in range(int(math.log2(p))):
        w.round([(i, i ^ 1 << k, slice(None)) for i in range(p)], True)


def rabenseifner(w: Wires, p: int) -> None:
    """Recursive halving, then recursive doubling of the parts."""
    spans = [(0, w.data.shape[1])] * p
    steps = []
    distance = p // 2
    while distance:
        messages, kept = [], list(spans)
        for i in range(p):
            lo, hi = spans[i]
            middle = (lo + hi) // 2
            upper = bool(i & distance)
            kept[i] = (middle, hi) if upper else (lo, middle)
            messages.append((i, i ^ distance, slice(lo, middle) if upper else slice(middle, hi)))
        w.round(messages, True)
        steps.append((distance, kept))
        spans = kept
        distance //= 2
    for distance, kept in reversed(steps):
        w.round([(i, i ^ distance, slice(*kept[i])) for i in range(p)], False)
        # after this both hold what their common span was before
        for j, (d, k) in enumerate(steps):
            if d == distance:
                steps[j] = (d, k)
        merged = {}
        for i in range(p):
            a, b = kept[i], kept[i ^ distance]
            merged[i] = (min(a[0], b[0]), max(a[1], b[1]))
        for j, (d, _) in enumerate(steps):
            if d == 2 * distance:
                steps[j] = (d, [merged[i] for i in range(p)])


@pytest.mark.parametrize("ranks", [2, 4, 8, 16])
@pytest.mark.parametrize(
    ("run", "formula"),
    [
        (ring, network.ring_allreduce),
        (doubling, network.doubling_allreduce),
        (rabenseifner, network.rabenseifner_allreduce),
    ],
    ids=["ring", "doubling", "rabenseifner"],
)
def test_costs_are_those_of_the_messages(run, formula, ranks):
    wires = Wires(ranks, 240 * 16)
    run(wires, ranks)
    assert (wires.data == wires.total).all()  # it is an allreduce
    assert wires.seconds == pytest.approx(formula(ranks, 8 * 240 * 16, LINK).seconds)


@pytest.mark.parametrize("ranks", [3, 5, 7])
def test_ring_of_any_number(ranks):
    wires = Wires(ranks, 60 * ranks)
    ring(wires, ranks)
    assert (wires.data == wires.total).all()
    cost = network.ring_allreduce(ranks, 8 * 60 * ranks, LINK)
    assert wires.seconds == pytest.approx(cost.seconds)


def test_ranks_beyond_a_power_of_two_are_folded_in():
    core = network.doubling_allreduce(4, 1000, LINK).seconds
    folded = (ALPHA + 1000 * (BETA + GAMMA)) + (ALPHA + 1000 * BETA)
    assert network.doubling_allreduce(6, 1000, LINK).seconds == pytest.approx(core + folded)


def test_gathers_by_hand():
    assert network.ring_allgather(4, 1000, LINK).seconds == pytest.approx(3 * ALPHA + 750 * BETA)
    assert network.reduce_scatter(4, 1000, LINK).seconds == pytest.approx(
        3 * ALPHA + 750 * (BETA + GAMMA)
    )
    for f in (*network.ALLREDUCE.values(), network.ring_allgather, network.reduce_scatter):
        assert f(1, 1000, LINK).seconds == 0


def test_an_allreduce_takes_the_cheapest_way():
    net = a_network()
    small = network.allreduce(net, NodeSpread(256, 64, 64), 4)
    large = network.allreduce(net, NodeSpread(256, 64, 64), 1e9)
    assert "recursive doubling" in small.way
    assert "between nodes" in large.way
    # each byte crosses the two adapters of a node about twice, and three quarters the links within
    around = 2 * 1e9 * 0.75 / 1e11
    assert large.seconds == pytest.approx(2 * 1e9 / (2 * 1e10) * 63 / 64 + around, rel=0.01)
    alone = network.allreduce(net, NodeSpread(4), 1e9).seconds
    assert alone == pytest.approx(2 * 0.75 * 1e9 / 1e11, rel=0.01)


@pytest.mark.parametrize("size", [4, 1e4, 1e8])
def test_exchanges_cost_more_the_more_there_is(size):
    net = a_network(fabric=Fabric(kind="fat-tree", group=4, taper=2.0))
    costs = [
        network.allreduce(net, NodeSpread(4 * n, n, n), size).seconds for n in (1, 2, 4, 8, 32)
    ]
    assert costs == sorted(costs)
    assert network.allreduce(net, NodeSpread(16, 4, 4), 2 * size).seconds > costs[2]
    slower = a_network(between=Wire(alpha=9e-6, bandwidth=1e10))
    assert network.allreduce(slower, NodeSpread(16, 4, 4), 4).seconds > (
        network.allreduce(a_network(), NodeSpread(16, 4, 4), 4).seconds
    )


def test_contention():
    tree = Fabric(kind="fat-tree", group=16, taper=4.0)
    fly = Fabric(kind="dragonfly", group=16, taper=4.0)
    for fabric in (tree, fly):
        assert network.contention(fabric, 16, neighbours=False) == 1  # below one switch
        assert network.contention(fabric, 64, neighbours=True) == 1  # one flow of 16 leaves
    # of 16 nodes' bytes to 63 others, 48/63 leave through a quarter of the links
    assert network.contention(tree, 64, neighbours=False) == pytest.approx(4 * 48 / 63)
    assert network.contention(fly, 64, neighbours=False) == pytest.approx(8 * 48 / 63)
    assert network.contention(Fabric(kind="flat"), 10**6, neighbours=False) == 1
