"""Which grid, and what limits it; sites and configurations of the package."""

from __future__ import annotations

import pytest
from planning_cases import a_machine, a_network, a_work, of_config, rates

from hpcsamp.data.order import check_batch
from hpcsamp.errors import UsageError
from hpcsamp.grid import plan_grid, share_samples
from hpcsamp.losses import Shared
from hpcsamp.planning import grid_choice, machine
from hpcsamp.planning.machine import Machine, Wire
from hpcsamp.planning.model import NodeLayout, one_rank, predict
from hpcsamp.planning.rates import estimated
from hpcsamp.planning.workload import (
    Workload,
    configuration_of,
)


@pytest.mark.parametrize(
    ("ranks", "each", "samples", "batch"), [(8, 4, 16, 32), (12, 4, 10, 24), (6, 3, 4, 9)]
)
def test_layouts_are_those_that_a_run_accepts(ranks, each, samples, batch):
    nodes = [f"node{r // each}" for r in range(ranks)]
    accepted = []
    for p in range(1, 20):
        try:
            grid = plan_grid(nodes, p)
            share_samples(samples, grid.sample_size, 0)
            check_batch(batch, grid.data_size)
        except UsageError:
            continue
        accepted.append((grid.sample_size, grid.data_size))
    found = [(x.sample_size, x.data_size) for x in grid_choice.layouts(ranks, each, samples, batch)]
    assert found == accepted


@pytest.mark.parametrize(("p", "ranks", "each"), [(4, 16, 4), (3, 12, 4), (8, 16, 4), (6, 12, 4)])
def test_where_groups_are_is_as_planned(p, ranks, each):
    layout = NodeLayout(p, ranks // p, each)
    grid = plan_grid([f"node{r // each}" for r in range(ranks)], p)
    spans = max(len({r // each for r in group}) for group in grid.groups)
    assert layout.sample_group.nodes == spans
    column = [group[0] for group in grid.groups]
    assert layout.data_group.nodes == len({r // each for r in column})


def test_speed_up_and_efficiency_are_the_papers():
    work, place = a_work(), a_machine(jitter=0.02)
    constants = rates(work, place)
    layout = NodeLayout(4, 2, 4)
    one = one_rank(work, place, constants).seconds
    fixed = grid_choice.judge(work, layout, place, constants)
    assert fixed.speed_up == pytest.approx(one / fixed.prediction.seconds)
    assert fixed.efficiency == pytest.approx(fixed.speed_up / 8)
    growing = grid_choice.judge(work, layout, place, constants, "growing")
    assert growing.prediction.work.batch == 8 * 64
    assert growing.speed_up == pytest.approx(8 * one / growing.prediction.seconds)
    more = grid_choice.judge(work, layout, place, constants, "proportional")
    assert more.prediction.work.samples == 8 * 16
    assert more.efficiency == pytest.approx(one / more.prediction.seconds)


@pytest.mark.parametrize("mode", ["fixed", "growing", "proportional"])
def test_efficiency_falls_with_ranks(mode):
    work, place = a_work(batch=256), a_machine(jitter=0.02)
    constants = rates(work, place)
    found = [
        grid_choice.judge(work, NodeLayout(4, n, 4), place, constants, mode).efficiency
        for n in (1, 2, 4, 16, 64)
    ]
    assert found == sorted(found, reverse=True)
    assert mode == "growing" or found[0] <= 1  # more items a pass share what a pass costs anyway


def said(work: Workload, place: Machine, memory=None, **changes) -> str:
    constants = rates(work, place, **changes)
    return grid_choice.verdict(grid_choice.splits(work, 16, 4, place, constants, memory=memory))


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
    assert "ranks are idle" in said(a_work(samples=3, batch=8), a_machine())


def test_memory_limits():
    def memory(layout: NodeLayout, work: Workload) -> float:
        return 1e12 if layout.sample_size < 8 else 1e9

    ranked = grid_choice.splits(
        a_work(), 16, 4, a_machine(), rates(a_work(), a_machine()), memory=memory
    )
    assert [s.fits for s in ranked] == sorted((s.fits for s in ranked), reverse=True)
    assert ranked[0].prediction.layout.sample_size >= 8
    assert "memory limits: no grid fits" in said(
        a_work(), a_machine(), memory=lambda layout, work: 1e12
    )
    told = said(
        a_work(samples=18),
        a_machine(),
        memory=lambda layout, work: 1e9 if layout.sample_size == 16 else 5e10,
    )
    assert "memory limits the choice" in told
    assert "needs 50.0 GB per rank" in told


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
    assert mse.statistics == (Shared("sum of the outputs", 4, "BV"),)
    assert linear.statistics == ()
    crps = of_config("mlp-entsoe", "loss.name=crps")
    assert [e.way for e in crps.statistics] == ["all-to-all", "all-to-all", "sum"]
    averaged = of_config("mlp-entsoe", "loss.exact=false")
    assert averaged.statistics == ()
    place = a_machine()
    found = predict(mse, NodeLayout(4, 1, 4), place, rates(mse, place)).phase("statistics")
    assert found == pytest.approx(2e-6 + 2 * 4 * 256 * 24 / 1e11, rel=0.3)
    found = predict(crps, NodeLayout(4, 1, 4), place, rates(crps, place)).phase("statistics")
    # three of a rank's four parts, there and back; and a sum of a number of each item
    there_and_back = 2 * (1e-6 + 0.75 * 4 * 16 / 4 * 256 * 24 / 1e11)
    assert found == pytest.approx(there_and_back + 2 * (1e-6 + 4 * 256 / 1e11))


def test_a_model_stands_for_its_configuration():
    assert configuration_of("vit") == "vit-cifar10"
    assert configuration_of("swin-era5") == "swin-era5"
    with pytest.raises(UsageError, match=r"vitt is not a file, a configuration .* did you mean"):
        configuration_of("vitt")
