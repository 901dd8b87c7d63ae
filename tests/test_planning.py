"""The model of performance: formulas against hand, simulation and messages; grids; bad input."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from hpcsamp import config as configuration
from hpcsamp.data.order import check_batch
from hpcsamp.errors import UsageError
from hpcsamp.losses.registry import LOSSES
from hpcsamp.planning import calibration, choice, fit, jitter, machine, network
from hpcsamp.planning.counts import Counts, count
from hpcsamp.planning.machine import Fabric, Machine, Network, Storage, Wire
from hpcsamp.planning.model import COMPUTE, Layout, one_rank, predict
from hpcsamp.planning.network import Link, Spread
from hpcsamp.planning.rates import Rates, estimated
from hpcsamp.planning.simulate import simulate
from hpcsamp.planning.workload import (
    Workload,
    configuration_of,
    exchanges_of,
    statistics_bytes,
)
from hpcsamp.topology import plan_grid, share_samples

ALPHA, BETA, GAMMA = 2e-6, 1e-9, 3e-10
LINK = Link(ALPHA, BETA, GAMMA)


# Collectives, by the messages that they send ---------------------------------------------------


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


def a_network(**changes) -> Network:
    given = {
        "within": Wire(alpha=1e-6, bandwidth=1e11),
        "between": Wire(alpha=5e-6, bandwidth=1e10),
        "adapters": 2,
    }
    return Network(**{**given, **changes})


def test_an_allreduce_takes_the_cheapest_way():
    net = a_network()
    small = network.allreduce(net, Spread(256, 64, 64), 4)
    large = network.allreduce(net, Spread(256, 64, 64), 1e9)
    assert "recursive doubling" in small.way
    assert "between nodes" in large.way
    # each byte crosses the two adapters of a node about twice, and three quarters the links within
    around = 2 * 1e9 * 0.75 / 1e11
    assert large.seconds == pytest.approx(2 * 1e9 / (2 * 1e10) * 63 / 64 + around, rel=0.01)
    alone = network.allreduce(net, Spread(4), 1e9).seconds
    assert alone == pytest.approx(2 * 0.75 * 1e9 / 1e11, rel=0.01)


@pytest.mark.parametrize("size", [4, 1e4, 1e8])
def test_exchanges_cost_more_the_more_there_is(size):
    net = a_network(fabric=Fabric(kind="fat-tree", group=4, taper=2.0))
    costs = [network.allreduce(net, Spread(4 * n, n, n), size).seconds for n in (1, 2, 4, 8, 32)]
    assert costs == sorted(costs)
    assert network.allreduce(net, Spread(16, 4, 4), 2 * size).seconds > costs[2]
    slower = a_network(between=Wire(alpha=9e-6, bandwidth=1e10))
    assert network.allreduce(slower, Spread(16, 4, 4), 4).seconds > (
        network.allreduce(a_network(), Spread(16, 4, 4), 4).seconds
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


# Waiting ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("ranks", [1, 8, 500])
def test_expected_maximum_is_that_of_draws(ranks):
    drawn = jitter.draw(np.random.default_rng(1), 0.05, (4000, ranks))
    assert drawn.mean() == pytest.approx(1, abs=2e-3)
    assert drawn.std() == pytest.approx(0.05, rel=0.03)
    assert drawn.max(axis=1).mean() == pytest.approx(
        jitter.expected_maximum(1.0, 0.05, ranks), abs=4e-3
    )


# Work ------------------------------------------------------------------------------------------


def test_counts_of_an_mlp_by_hand():
    with torch.device("meta"):
        net = torch.nn.Sequential(torch.nn.Linear(7, 11), torch.nn.ReLU(), torch.nn.Linear(11, 3))
    found = count(net, (7,))
    # forward 2 n m a product; backward the same for the weights, and for the inputs but the first
    assert found.flops == (0, 2 * 7 * 11 * 2 + 2 * 11 * 3 * 3)
    weights, activations = 7 * 11 + 11 + 11 * 3 + 3, 7 + 11 + 11 + 3
    assert found.moved[0] >= 4 * 2 * weights  # read, and a gradient written
    assert found.moved[1] >= 4 * 2 * activations
    assert found.operations >= 2 * 3


def test_a_network_that_looks_at_values_is_refused():
    class Looks(torch.nn.Linear):
        def forward(self, x):
            return super().forward(x) if x.sum() > 0 else x

    with torch.device("meta"):
        net = Looks(3, 3)
    with pytest.raises(UsageError, match=r"cannot be counted without values.*bench calibrate"):
        count(net, (3,))


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_says_bytes_that_can_be_computed(name):
    about = LOSSES[name].about
    found = statistics_bytes(about.bytes, samples=16, batch=32, values=10, ranks=4)
    assert (found == 0) == (about.kind == "linear")
    assert found <= 4 * 16 * 32 * 10 + 8 * 32  # never more than all outputs


def test_exchanges_of_the_losses():
    found = {name: exchanges_of(kind.about.shares) for name, kind in LOSSES.items()}
    assert found == {
        "expected_nll": 0, "beta_nll": 0, "predictive_nll": 2, "gaussian_mixture_nll": 2,
        "alpha_divergence": 2, "importance_weighted_elbo": 3, "mean_mse": 1,
        "gaussian_moments_nll": 2, "crps": 1, "energy_score": 2,
    }  # fmt: skip


def test_bytes_by_hand():
    assert statistics_bytes("0", 16, 32, 10, 4) == 0
    assert statistics_bytes("12·B·V", 16, 32, 10, 4) == 12 * 32 * 10
    assert statistics_bytes("16 + 8·S/P", 16, 32, 10, 4) == 16 + 8 * 4


# A step ----------------------------------------------------------------------------------------


def a_work(**changes) -> Workload:
    given = Workload(
        name="net", key="net", samples=16, batch=64, weights=1000, drawn=1000, trained=2000,
        counts=Counts((0.0, 1e6), (0.0, 1e4), 50), x_bytes=400.0, stored_bytes=100.0,
        horovod_from=math.inf,
    )  # fmt: skip
    return replace(given, **changes)


def a_machine(**changes) -> Machine:
    given = machine.load("horeka").model_copy(
        update={
            "network": a_network(),
            "storage": Storage(node=1e9, total=1e10),
            "jitter": 0.0,
        }
    )
    return given.model_copy(update=changes)


def rates(work: Workload, place: Machine, **changes) -> Rates:
    given = Rates(
        place, work, "measured", draw=1e-9, penalty=4e-9, update=2e-9, overhead=1e-4,
        augment=1e-10, copy=1e-9, passes=(1e-3, 1e-4),
    )  # fmt: skip
    return replace(given, **changes)


def test_a_step_by_hand():
    work = a_work(statistics="8·B", exchanges=2, views="sample")
    place = a_machine()
    found = predict(work, Layout(4, 2, 4), place, rates(work, place))
    near = found.phase
    assert (found.samples, found.items) == (4, 32)
    assert near("draw") == pytest.approx(4 * 1000 * 1e-9)
    assert near("forward+backward") == pytest.approx(4 * (1e-3 + 32 * 1e-4))
    assert near("augment") == pytest.approx(4 * 32 * 400 * 1e-10)
    assert near("penalty") == pytest.approx(1e-4 + 1000 / 4 * 4e-9)
    assert near("optimiser") == pytest.approx(2000 * 2e-9)
    assert near("feed") == pytest.approx(32 * 100 * 1e-9)  # reading is hidden
    # four ranks of a node: two rounds each, of 4 B, twice
    assert near("statistics") == pytest.approx(2 * (2 * 1e-6 + 2 * 128 / 1e11))
    assert near("waiting") == 0
    assert found.seconds == pytest.approx(sum(p.seconds for p in found.phases))
    assert found.items_per_second == pytest.approx(64 / found.seconds)
    assert found.samples_per_second == pytest.approx(16 * 64 / found.seconds)


def test_horovods_cycle_counts():
    work, place = a_work(), a_machine()
    plain = predict(work, Layout(4, 1, 4), place, rates(work, place))
    cycled = replace(work, horovod_from=0)
    found = predict(cycled, Layout(4, 1, 4), place, rates(cycled, place))
    busy = sum(plain.phase(n) for n in COMPUTE)
    cycle = math.sqrt(5e-5 * busy)
    extra = found.phase("gradient exchange") - plain.phase("gradient exchange")
    assert extra == pytest.approx(cycle + 5e-5 * busy / cycle)
    one = predict(cycled, Layout(), place, rates(cycled, place))
    assert one.phase("gradient exchange") == 0


def test_sharded_optimisers_and_own_parameters():
    work, place = a_work(trained=10**6), a_machine()
    layout = Layout(4, 2, 4)
    shared = predict(replace(work, sharded=True), layout, place, rates(work, place))
    whole = predict(work, layout, place, rates(work, place))
    assert shared.phase("optimiser") == pytest.approx(whole.phase("optimiser") / 4)
    # four ranks of a node scatter and gather 4 MB; then each sums its quarter with the other node,
    # four at once through two adapters
    expected = 2 * (3 * 1e-6 + 0.75 * 4e6 / 1e11) + 5e-6 + 1e6 * 2 / 1e10
    assert shared.phase("gradient exchange") == pytest.approx(expected)
    own = replace(work, own=True)
    alone = predict(own, Layout(4, 1, 4), place, rates(own, place))
    assert alone.phase("gradient exchange") == 0  # nothing crosses the sample axis
    assert alone.phase("optimiser") == pytest.approx(4 * whole.phase("optimiser"))


def test_reading_is_seen_where_it_takes_longest():
    work = a_work(stored_bytes=1e7)
    place = a_machine()
    found = predict(work, Layout(4, 2, 4), place, rates(work, place, copy=0.0))
    assert found.reading == pytest.approx(32 * 1e7 / 1e9)
    assert found.seconds == pytest.approx(found.reading)
    # without sample groups every rank of a node needs a batch of its own, as large in all
    data = predict(work, Layout(1, 8, 4), place, rates(work, place, copy=0.0))
    assert data.reading == pytest.approx(4 * 8 * 1e7 / 1e9)


@pytest.mark.parametrize("stored", [0.0, 100.0, 1e8], ids=["no feed", "hidden", "read bound"])
@pytest.mark.parametrize("layout", [Layout(4, 2, 4), Layout(3, 5, 4), Layout(8, 1, 4)], ids=str)
def test_simulation_is_the_formula_without_jitter(layout, stored):
    work = a_work(stored_bytes=stored, batch=60, statistics="8·B", exchanges=2, views="sample")
    place = a_machine()
    expected = predict(work, layout, place, rates(work, place, copy=1e-11))
    found = simulate(expected, place, steps=20)
    assert found.seconds == pytest.approx(expected.seconds)
    assert (found.starved > 0.1) == (stored == 1e8)


def test_simulation_is_the_formula_with_jitter():
    work = a_work(batch=1000)
    place = a_machine(jitter=0.03)
    expected = predict(work, Layout(4, 250, 4), place, rates(work, place))
    found = simulate(expected, place, steps=200)
    still = predict(work, Layout(4, 250, 4), a_machine(), rates(work, place)).seconds
    assert expected.seconds > 1.05 * still
    assert found.mean == pytest.approx(expected.seconds, rel=0.01)
    assert 0 < found.waiting < 0.25


def test_ten_thousand_ranks():
    work = a_work(batch=40_000)
    place = a_machine(jitter=0.02)
    ranked = choice.splits(work, 10_000, 4, place, rates(work, place))
    assert {s.prediction.layout.ranks for s in ranked} == {10_000}
    found = simulate(ranked[0].prediction, place, steps=50)
    assert found.mean == pytest.approx(ranked[0].prediction.seconds, rel=0.02)


# Grids -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ranks", "each", "samples", "batch"), [(8, 4, 16, 32), (12, 4, 10, 24), (6, 3, 4, 9)]
)
def test_layouts_are_those_that_a_run_accepts(ranks, each, samples, batch):
    nodes = [f"node{r // each}" for r in range(ranks)]
    accepted = []
    for p in range(1, 20):
        try:
            grid = plan_grid(nodes, p)
            share_samples(samples, grid, 0)
            check_batch(batch, grid.data_size)
        except UsageError:
            continue
        accepted.append((grid.sample_size, grid.data_size))
    found = [(x.sample_size, x.data_size) for x in choice.layouts(ranks, each, samples, batch)]
    assert found == accepted


@pytest.mark.parametrize(("p", "ranks", "each"), [(4, 16, 4), (3, 12, 4), (8, 16, 4), (6, 12, 4)])
def test_where_groups_are_is_as_planned(p, ranks, each):
    layout = Layout(p, ranks // p, each)
    grid = plan_grid([f"node{r // each}" for r in range(ranks)], p)
    spans = max(len({r // each for r in group}) for group in grid.groups)
    assert layout.sample_group.nodes == spans
    column = [group[0] for group in grid.groups]
    assert layout.data_group.nodes == len({r // each for r in column})


def test_speed_up_and_efficiency_are_the_papers():
    work, place = a_work(), a_machine(jitter=0.02)
    constants = rates(work, place)
    layout = Layout(4, 2, 4)
    one = one_rank(work, place, constants).seconds
    fixed = choice.judge(work, layout, place, constants)
    assert fixed.speed_up == pytest.approx(one / fixed.prediction.seconds)
    assert fixed.efficiency == pytest.approx(fixed.speed_up / 8)
    growing = choice.judge(work, layout, place, constants, "growing")
    assert growing.prediction.work.batch == 8 * 64
    assert growing.speed_up == pytest.approx(8 * one / growing.prediction.seconds)
    more = choice.judge(work, layout, place, constants, "proportional")
    assert more.prediction.work.samples == 8 * 16
    assert more.efficiency == pytest.approx(one / more.prediction.seconds)


@pytest.mark.parametrize("mode", ["fixed", "growing", "proportional"])
def test_efficiency_falls_with_ranks(mode):
    work, place = a_work(batch=256), a_machine(jitter=0.02)
    constants = rates(work, place)
    found = [
        choice.judge(work, Layout(4, n, 4), place, constants, mode).efficiency
        for n in (1, 2, 4, 16, 64)
    ]
    assert found == sorted(found, reverse=True)
    assert mode == "growing" or found[0] <= 1  # more items a pass share what a pass costs anyway


def said(work: Workload, place: Machine, memory=None, **changes) -> str:
    constants = rates(work, place, **changes)
    return choice.verdict(choice.splits(work, 16, 4, place, constants, memory=memory))


def test_the_verdict_names_the_limit():
    slow = a_network(between=Wire(alpha=0, bandwidth=1e6), within=Wire(alpha=0, bandwidth=1e6))
    late = a_network(between=Wire(alpha=1, bandwidth=1e10))
    assert "limited by compute" in said(a_work(), a_machine())
    assert "limited by the network's bandwidth" in said(
        a_work(trained=10**6), a_machine(network=slow)
    )
    assert "limited by latency of the exchanges" in said(a_work(), a_machine(network=late))
    assert "limited by the feed" in said(a_work(stored_bytes=1e8), a_machine())
    assert "limited by the optimiser" in said(a_work(), a_machine(), update=1e-3)
    assert "limited by waiting" in said(a_work(), a_machine(jitter=2.0))
    assert "leaves ranks idle" in said(a_work(samples=3, batch=8), a_machine())


def test_memory_limits():
    def memory(layout: Layout, work: Workload) -> float:
        return 1e12 if layout.sample_size < 8 else 1e9

    ranked = choice.splits(
        a_work(), 16, 4, a_machine(), rates(a_work(), a_machine()), memory=memory
    )
    assert [s.fits for s in ranked] == sorted((s.fits for s in ranked), reverse=True)
    assert ranked[0].prediction.layout.sample_size >= 8
    assert "memory limits: no split fits" in said(
        a_work(), a_machine(), memory=lambda layout, work: 1e12
    )
    told = said(
        a_work(samples=18),
        a_machine(),
        memory=lambda layout, work: 1e9 if layout.sample_size == 16 else 5e10,
    )
    assert "memory limits the choice" in told
    assert "needs 50.0 GB a rank" in told


# Sites and configurations ----------------------------------------------------------------------


@pytest.mark.parametrize("name", machine.names())
def test_sites(name):
    from pathlib import Path

    from hpcsamp.campaign import site

    place = machine.load(name)
    assert place.device.bfloat16 >= place.device.float32 >= place.device.float64
    assert place.network.within.bandwidth >= place.network.between.bandwidth
    assert place.source
    known = site.load({"name": name}, Path())
    assert place.per_node == known.resources.get("ranks_per_node", place.per_node)


def of_config(name: str, *settings: str) -> Workload:
    from hpcsamp.training.memory import Shapes
    from hpcsamp.training.prepare import source_of

    run = configuration.load(name, settings)
    return Workload.of(run, Shapes.of(run, source_of(run.data.synthetic)))


def test_an_estimate_is_near_the_papers_epochs():
    """Section 6.1: an epoch of the ViT with 16 samples takes 1.5 minutes on one A100."""
    place = machine.load("horeka")
    work = of_config("vit-cifar10", "data.batch=256")
    step = one_rank(work, place, estimated(place, work))
    epoch = 45_000 / 256 * step.seconds
    assert 90 / 1.5 < epoch < 90 * 1.5
    assert work.weights == pytest.approx(2.7e6, rel=0.05)
    assert work.drawn <= work.weights
    assert work.trained == work.drawn + work.weights


def test_bfloat16_is_faster_and_small_models_are_launches():
    place = machine.load("horeka")
    single, half = of_config("vit-cifar10"), of_config("vit-cifar10", "training.precision=bfloat16")
    assert (
        one_rank(half, place, estimated(place, half)).seconds
        < one_rank(single, place, estimated(place, single)).seconds
    )
    assert estimated(place, half).of_pass(1).by == "launches"
    assert estimated(place, half).of_pass(1, 16).seconds < estimated(place, half).of_pass(1).seconds


def test_losses_of_configurations_are_exchanged():
    mse, linear = of_config("mlp-entsoe"), of_config("vit-cifar10")
    assert (mse.exchanges, mse.statistics, mse.gathers) == (1, "4·B·V", False)
    assert (linear.exchanges, linear.statistics) == (0, "0")
    crps = of_config("mlp-entsoe", "loss.name=crps")
    assert (crps.exchanges, crps.gathers) == (1, True)
    averaged = of_config("mlp-entsoe", "loss.exact=false")
    assert (averaged.exchanges, averaged.statistics) == (0, "0")
    place = a_machine()
    found = predict(mse, Layout(4, 1, 4), place, rates(mse, place)).phase("statistics")
    assert found == pytest.approx(2e-6 + 2 * 4 * 256 * 24 / 1e11, rel=0.3)
    gathered = predict(crps, Layout(4, 1, 4), place, rates(crps, place)).phase("statistics")
    assert gathered == pytest.approx(3e-6 + 0.75 * 4 * 16 * 256 * 24 / 1e11)


def test_a_model_stands_for_its_configuration():
    assert configuration_of("vit") == "vit-cifar10"
    assert configuration_of("swin-era5") == "swin-era5"
    with pytest.raises(UsageError, match=r"vitt is no file, no configuration .* did you mean"):
        configuration_of("vitt")


# Measured constants ----------------------------------------------------------------------------


def points(names=("vit", "mlp"), noise=0.0, crowd=1.2) -> list[fit.Point]:
    """Steps of a machine that is as the model says."""
    constants = {"vit": (2e-3, 4e-3, 1e-3), "mlp": (1e-3, 1e-4, 1e-5)}
    generator = np.random.default_rng(3)
    found = []
    for name in names:
        o, a, d = constants[name]
        for p in (1, 2):
            for s in (2, 4, 8, 16):
                for b in (8, 16, 64):
                    own = s // p
                    t = (crowd if p > 1 else 1) * (o + a * own + d * own * b)
                    t += (p > 1) * (2e-4 + 4 * 50_000 * 1e-9)
                    t *= 1 + noise * generator.standard_normal()
                    found.append(fit.Point(name, s, b, p, 1, t, 50_000))
    return found


def test_constants_are_found_again():
    fitted, held = fit.hold_back(points())
    assert len(fitted) + len(held) == len(points())
    assert len(held) >= 12
    assert not set(fitted) & set(held)
    found = fit.fit(fitted)
    assert found.crowd == pytest.approx(1.2, abs=0.026)
    assert found.models["vit"] == pytest.approx((2e-3, 4e-3, 1e-3), rel=0.05)
    error = fit.errors([found.predict(p) for p in held], held)
    assert error["max"] < 0.01


def test_a_disturbed_point_does_little_harm():
    disturbed = points(noise=0.01)
    for i in (5, 20, 30):
        disturbed[i] = replace(disturbed[i], seconds=0.5 * disturbed[i].seconds)
    found = fit.fit(disturbed)
    others = [p for i, p in enumerate(disturbed) if i not in (5, 20, 30)]
    assert (
        fit.errors([found.predict(p) for p in others], others)["median"] < 0.02
    )  # 0.08 with plain squares


def test_a_link_is_found_again():
    sizes = [16, 1024, 65536, 1e6, 1e7]
    for ranks in (2, 8):
        seconds = [
            min(f(ranks, s, Link(5e-6, 1e-9)).seconds for f in network.ALLREDUCE.values())
            for s in sizes
        ]
        alpha, beta = fit.link(ranks, sizes, seconds)
        assert alpha == pytest.approx(5e-6, rel=0.1)
        assert beta == pytest.approx(1e-9, rel=0.1)


def record(point: fit.Point) -> dict:
    return {
        "model": point.model, "samples": point.samples, "batch": point.batch,
        "sample_group_size": point.sample_size, "data_group_size": point.data_size,
        "seconds_per_step": point.seconds, "trained": point.trained,
    }  # fmt: skip


def test_records_are_read(tmp_path):
    lines = tmp_path / "steps.jsonl"
    lines.write_text("".join(json.dumps(record(p)) + "\n" for p in points()) + '{"event": "x"}\n')
    whole = tmp_path / "steps.json"
    whole.write_text(json.dumps([record(p) for p in points()]))
    assert fit.read(lines) == fit.read(whole) == points()


def test_records_of_scaling_experiments_are_read(tmp_path):
    path = tmp_path / "scaling.jsonl"
    line = {"workload": "vit", "samples": 8, "batch": 4, "ranks": 6, "sample_size": 3,
            "step_seconds": 0.5}  # fmt: skip
    path.write_text(json.dumps(line) + "\n")
    assert fit.read(path) == [fit.Point("vit", 8, 4, 3, 2, 0.5)]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{}", "none of 1 records has samples, batch, model"),
        ("not json", "neither JSON nor JSON lines"),
        (None, "No such file"),
    ],
)
def test_bad_records(tmp_path, text, told):
    path = tmp_path / "steps.jsonl"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UsageError, match=told):
        fit.read(path)


def test_too_few_points():
    with pytest.raises(UsageError, match="model vit has 3 constants and 2 points"):
        fit.fit(points(["vit"])[:2])


def a_calibration(**changes) -> calibration.Calibration:
    model = {
        "key": "net", "name": "net", "base": 1e-3, "per_item": 1e-4, "overhead": 2e-4,
        "crowd": 1.1, "flops": 1e6, "operations": 50,
    }  # fmt: skip
    given = {
        "machine": calibration.fingerprint(), "models": [model], "draw": 1e-9, "penalty": 2e-9,
        "update": 3e-9, "augment": 1e-9, "read": 1e-9, "copy": 1e-9, "agreement": 1e-5,
        "link": {"alpha": 3e-6, "bandwidth": 2e9}, "jitter": 0.01, "cycles": 0.5,
    }  # fmt: skip
    return calibration.Calibration.model_validate({**given, **changes})


def test_measured_constants_are_used(tmp_path):
    path = tmp_path / "calibration.json"
    path.write_text(json.dumps(a_calibration().model_dump(by_alias=True)))
    found = calibration.load(path)
    assert found == a_calibration()
    site = machine.load("local")
    own = found.rates(site, a_work())
    assert own.origin == "measured"
    assert own.of_pass(10).seconds == pytest.approx(1e-3 + 10 * 1e-4)
    place = found.machine_of(site)
    assert place.network.within.bandwidth == 2e9
    assert (place.jitter, place.network.cycles) == (0.01, 0.5)
    larger = a_work(key="other", counts=Counts((0, 5e6), (0, 1), 100))
    scaled = found.rates(site, larger)
    assert scaled.origin == "scaled from measured net"
    assert scaled.of_pass(10).seconds == pytest.approx(2 * 1e-3 + 10 * 5e-4)
    # several ranks of a node slow each other's compute
    alone = predict(a_work(), Layout(1, 1, 4), place, own).phase("forward+backward")
    both = predict(a_work(), Layout(1, 2, 4), place, own).phase("forward+backward")
    assert both == pytest.approx(1.1 * alone * (1e-3 + 32e-4) / (1e-3 + 64e-4))


def test_calibrations_of_other_machines_are_told():
    here = calibration.fingerprint()
    assert calibration.differences(a_calibration(), here) == ""
    other = a_calibration(machine={**here, "cores": 4096})
    assert f"cores 4096, here {here['cores']}" in calibration.differences(other, here)


@pytest.mark.parametrize(
    ("text", "told"),
    [("{}", "field required"), ("{", "is not JSON"), (None, "make one by hpcsamp bench calibrate")],
)
def test_bad_calibrations(tmp_path, text, told):
    path = tmp_path / "calibration.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UsageError, match=told):
        calibration.load(path)


# The commands ----------------------------------------------------------------------------------


def test_plan(hpcsamp, tmp_path):
    told = tmp_path / "plan.json"
    done = hpcsamp(
        1, "plan", "--model", "swin-era5", "--samples", 16, "--nodes", 2, "--gpus-per-node", 4,
        "--json", told, "--curve", "--picture", tmp_path / "curve.svg", "--simulate",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "compute estimated" in done.out
    assert "best: D x P" in done.out
    found = json.loads(told.read_text())
    grids = {(s["data_groups"], s["sample_ranks"]) for s in found["splits"]}
    assert grids == {(1, 8), (2, 4), (4, 2)}
    best = found["best"]
    assert sum(best["phases"].values()) == pytest.approx(best["seconds_per_step"])
    assert best["seconds_per_step"] == min(s["seconds_per_step"] for s in found["splits"])
    assert found["weights"] == pytest.approx(103e6, rel=0.02)
    assert best["memory_bytes"] > 16 * found["trained"]  # parameters, gradient, two moments
    assert [p["nodes"] for p in found["curve"]] == [1, 2]
    assert found["simulated"]["seconds_per_step"] == pytest.approx(
        best["seconds_per_step"], rel=0.05
    )
    assert "<svg" in (tmp_path / "curve.svg").read_text()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["vit-cifar10", "--site", "horeko"], "did you mean 'horeka'.*alps, frontier"),
        (["vit-cifar10", "--samples", "2", "--nodes", "64", "--batch", "100"],
         "no grid of 256 ranks: with S = 2 .* D = 128 data groups, and a batch of 100"),
        (["nothing-there"], "nothing-there is no file, no configuration"),
        ([], "nothing to plan"),
        (["vit-cifar10", "--calibration", "no.json"], "--calibration no.json: No such file"),
        (["--check", "no.jsonl"], "--check no.jsonl: No such file"),
    ],
)  # fmt: skip
def test_bad_plans(arguments, told, tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from hpcsamp.cli import app

    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["plan", *arguments])
    assert isinstance(result.exception, UsageError)
    assert "\n" not in str(result.exception)
    assert __import__("re").search(told, str(result.exception)), result.exception


def test_check_of_records(tmp_path):
    from typer.testing import CliRunner

    from hpcsamp.cli import app

    path = tmp_path / "steps.jsonl"
    path.write_text("".join(json.dumps(record(p)) + "\n" for p in points(noise=0.01)))
    out = tmp_path / "error.json"
    result = CliRunner().invoke(app, ["plan", "--check", str(path), "--json", str(out)])
    assert result.exit_code == 0, result.output
    found = json.loads(out.read_text())
    assert found["held_back"]["points"] == len(fit.hold_back(points())[1])
    assert 0 < found["held_back"]["median"] < 0.03
    assert "held-back points: median" in result.output


def test_calibrate(hpcsamp, tmp_path):
    out, steps, plan = (tmp_path / n for n in ("c.json", "steps.jsonl", "plan.json"))
    done = hpcsamp(
        2, "bench", "calibrate", "mlp-entsoe:small", "vit-cifar10:small", "--batches", "2,8",
        "--check", "--check-samples", "2,3", "--check-batches", 4, "--repeat", 1,
        "--collectives", "mpi", "-o", out, "--records", steps, timeout=150,
    )  # fmt: skip
    assert done.code == 0, done.err
    found = calibration.load(out)
    assert found.ranks == 2
    assert found.draw > 0
    assert found.link is not None
    assert [m.name for m in found.models] == ["mlp-entsoe:small", "vit-cifar10:small"]
    assert all(m.per_item > 0 for m in found.models)
    measured = fit.read(steps)
    assert {(p.model, p.samples, p.ranks) for p in measured} == {
        (m.name, s, r) for m in found.models for s in (2, 3) for r in (1, 2)
    }
    done = hpcsamp(
        1, "plan", "vit-cifar10", "--preset", "small", "--calibration", out, "--json", plan,
        "--ranks-per-node", 2,
    )  # fmt: skip
    assert done.code == 0, done.err
    told = json.loads(plan.read_text())
    assert (told["origin"], told["site"]) == ("measured", "local")
    assert "warning" not in done.err
