"""A third axis in plans: what a model rank holds, sends and takes, and which grids there are."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from layer_cases import mixer
from planning_cases import a_machine, a_work, rates

from hpcsamp import config as configuration
from hpcsamp import layers
from hpcsamp.errors import UsageError
from hpcsamp.grid import Grid, check_sizes, plan_grid
from hpcsamp.planning import grid_choice, memory, network_memory, parted
from hpcsamp.planning.counts import OperationCounts, count
from hpcsamp.planning.model import NodeLayout, predict
from hpcsamp.planning.workload import Workload
from hpcsamp.run.shapes import DataShapes


def described(*settings, name="mixer-era5", preset="tiny", method=None):
    run = configuration.load(name, settings, preset=preset)
    if method is not None:
        table = run.model_dump(exclude_none=True)
        run = configuration.check(table | {"method": {"name": method, "samples": 2}})
    return run, DataShapes.described(run, "synthetic")


@pytest.mark.parametrize("size", [2, 3, 4, 8])
def test_all_parts_are_the_network(size):
    whole = sum(p.numel() for p in mixer().parameters())
    held = []
    for rank in range(size):
        with layers.along(layers.imagined(size, rank)):
            held.append(sum(p.numel() for p in mixer().parameters()))
    assert sum(held) == whole
    with layers.along(layers.imagined(size)):
        assert sum(p.numel() for p in mixer().parameters()) == held[-1]


@pytest.mark.parametrize("size", [2, 4])
def test_a_rank_counts_its_part_of_the_arithmetic(size):
    """Of operands that all divide, so that nobody has more."""

    def make():
        return layers.TokenMLP(12, 8, 16)

    def blank():
        return make().to("meta")

    whole = count(blank(), (12, 16))
    axis = layers.imagined(size)
    with layers.along(axis):
        network, other = blank(), make()
    local = (12 // axis.layout[0], 16 // axis.layout[1])
    found = count(network, local, axis=axis)
    assert found.flops_of(6) == pytest.approx(whole.flops_of(6) / size)
    assert (whole.exchanges, whole.sent) == (0, (0, 0))
    assert found.exchanges == {2: 6, 4: 11}[size]  # as its docstring says, and biases
    x = torch.zeros(6, *local)
    before = axis.counted.bytes
    other(x).sum().backward()
    assert found.sent_of(6) == axis.counted.bytes - before


def test_sizes_are_those_that_network_method_and_loss_allow():
    run, shapes = described()
    assert parted.sizes(run, shapes, 12) == [1, 2, 3, 4, 6, 12]
    assert parted.sizes(run, shapes, 10) == [1, 2]  # 5 and 10 divide neither channels nor strips
    assert parted.sizes(*described(method="ensemble"), 4) == [1, 2, 4]
    assert parted.sizes(*described("loss.kl=monte_carlo"), 4) == [1]
    mlp = described(name="mlp-entsoe", preset=None)
    assert parted.sizes(*mlp, 64) == [1]
    assert parted.sizes(*described("parallel.model=2"), 4) == [2]


@pytest.mark.parametrize(
    ("settings", "ranks", "message"),
    [
        (["parallel.model=3"], 4, "parallel.model = 3 does not divide the 4 ranks"),
        (["parallel.model=5"], 10, "mixer: parallel.model = 5: no grid of 5 ranks"),
        (["parallel.model=2", "loss.kl=monte_carlo"], 4, "Monte Carlo KL needs the densities"),
    ],
)
def test_a_size_that_is_asked_for_is_refused_in_a_line(settings, ranks, message):
    with pytest.raises(UsageError, match=message) as refused:
        parted.sizes(*described(*settings), ranks)
    assert "\n" not in str(refused.value)


def test_a_network_that_has_no_parts_is_refused_by_its_layer():
    with pytest.raises(UsageError, match=r"parallel.model = [12]"):
        parted.sizes(*described("parallel.model=2", name="mlp-entsoe", preset=None), 4)


def test_memory_of_a_model_rank():
    """The network dominates: each rank has a part of everything but Python itself."""
    settings = ["model.width=96", "method.samples=2"]
    run, shapes = described(*settings, preset="small")
    found = {}
    for m in (1, 2, 4):
        made = parted.blank(run, shapes, 2, m)
        found[m] = {p.name: p.bytes for p in memory.estimate(made, memory.Grid(2, 1, 2 * m))}
    process, slots = (
        "Python, torch, MPI",
        "3 slots for each exchange of model ranks, in shared memory",
    )
    assert found[1].keys() == found[2].keys() - {slots} == found[4].keys() - {slots}
    for name, whole in found[1].items():
        if name != process:  # of a pass also the terms of sums
            assert found[2][name] <= 0.65 * whole, name
            assert found[4][name] <= 0.4 * whole, name
    # the longest messages: 4 items of the other rank's fields, 35 of 69
    longest = 4 * 35 * 24 * 48 * 4
    assert 3 * longest <= found[2][slots] <= 1.25 * 3 * longest
    total = {m: sum(parts.values()) - parts[process] for m, parts in found.items()}
    assert total[4] <= 0.32 * total[1]
    trained = sum(p.numel() for p in parted.blank(run, shapes, 2, 4).method.parameters())
    assert found[4]["means and log standard deviations"] == 4 * trained


def test_the_check_before_training_counts_a_part(monkeypatch):
    run, shapes = described()
    whole, _ = parted.network(run, shapes)
    needed = 4 * sum(p.numel() for p in whole.parameters())
    monkeypatch.setattr(network_memory, "available", lambda device: 0.6 * needed)
    monkeypatch.setattr(network_memory.DataShapes, "of", lambda dataset: shapes)

    class Ranks:
        device = torch.device("cpu")
        model_size = 1

    with pytest.raises(UsageError, match="alone need"):
        network_memory.check(run, None, Ranks)
    Ranks.model_size = 2
    network_memory.check(run, None, Ranks)


@pytest.mark.parametrize(("ranks", "each"), [(8, 4), (12, 4), (16, 8), (6, 3)])
def test_layouts_are_those_that_a_run_accepts(ranks, each):
    nodes = [f"node{r // each}" for r in range(ranks)]
    samples, batch, models = 4, 12, (1, 2, 3, 4, 8)
    accepted = set()
    for m, p in itertools.product(models, range(1, samples + 1)):
        try:
            grid = plan_grid(nodes, p, m)
        except UsageError:
            continue
        if batch % grid.data_size == 0:
            accepted.add((grid.data_size, grid.sample_size, grid.model_size))
    found = grid_choice.layouts(ranks, each, samples, batch, models)
    assert {(x.data_size, x.sample_size, x.model_size) for x in found} == accepted
    assert len(found) == len(accepted)
    with pytest.raises(
        UsageError, match=r"no grid of 8 ranks: .* P = 2 ranks of M = 2 model ranks"
    ):
        grid_choice.layouts(8, 4, 2, 3, (1, 2))


@pytest.mark.parametrize(
    ("p", "m", "ranks", "each"),
    [(2, 2, 16, 4), (4, 2, 16, 4), (2, 8, 32, 4), (1, 4, 16, 4), (4, 4, 32, 8), (8, 4, 64, 4)],
)
def test_where_groups_are_is_as_planned(p, m, ranks, each):
    layout = NodeLayout(p, ranks // p // m, each, m)
    grid = plan_grid([f"node{r // each}" for r in range(ranks)], p, m)

    def spans(members) -> int:
        return len({r // each for r in members})

    assert layout.ranks == ranks == grid.world_size
    assert layout.model_group.nodes == max(spans(grid.along("model", r)) for r in range(ranks))
    assert layout.sample_group.nodes == max(spans(grid.along("sample", r)) for r in range(ranks))
    assert layout.data_group.nodes == max(spans(grid.along("data", r)) for r in range(ranks))
    assert layout.replicas.nodes == spans(grid.replicas(0))
    assert layout.replicas.ranks == len(grid.replicas(0))
    # how many groups of each kind have ranks on a node, and so share its adapters
    for spread, of in ((layout.replicas, grid.replicas), (layout.sample_group, along(grid))):
        assert spread.at_once == len({of(r) for r in range(each)})


def along(grid: Grid):
    return lambda rank: grid.along("sample", rank)


def test_a_step_with_model_ranks_by_hand():
    whole, place = a_work(horovod_from=float("inf")), a_machine()
    counts = OperationCounts((0.0, 5e5), (0.0, 6e3), 80, 10, (1000.0, 4e8))
    half = replace(whole, model=2, drawn=500, trained=1000, weights=500, counts=counts,
                   x_bytes=200.0, stored_bytes=50.0)  # fmt: skip
    work = replace(whole, model_sizes=(1, 2), of_part={1: whole, 2: half}.__getitem__)
    constants = rates(whole, place, stage=2e-5)
    found = predict(work, NodeLayout(2, 2, 4, 2), place, constants)
    near = found.phase
    assert (found.samples, found.items) == (8, 32)
    one = (1e-3 + 32 * 1e-4) / 2  # measured for the whole, half of its arithmetic
    assert near("forward+backward") == pytest.approx(8 * one)
    assert near("draw") == pytest.approx(8 * 500 * 1e-9)
    assert near("optimiser") == pytest.approx(1000 * 2e-9)
    sent = 1000 + 32 * 4e8
    seen = sent / 1e11 - one / 2  # under way while half of the products are made
    late = 10 * (1e-6 + 2e-5)
    sums = 1e-6 + 8 * 32 * 4 / 1e11 + 2e-5
    expected = 8 * (late + seen + 2 * sent / 2e10) + sums
    assert near("model exchange") == pytest.approx(expected)
    # four ranks, one of each model group, sum 4 kB; two such sums at a time on two nodes
    assert near("gradient exchange") < predict(
        whole, NodeLayout(4, 2, 4), place, rates(whole, place)
    ).phase("gradient exchange")
    assert found.seconds == pytest.approx(sum(p.seconds for p in found.phases))
    twice = work.scaled(samples=32)
    assert predict(twice, NodeLayout(2, 2, 4, 2), place, constants).samples == 16
    best = grid_choice.splits(work, 8, 4, place, constants)
    assert {str(s.prediction.layout) for s in best} >= {"2 x 2 x 2", "2 x 4", "1 x 4 x 2"}
    with pytest.raises(UsageError, match="planned for M = 1, not for 2"):
        predict(whole, NodeLayout(2, 2, 4, 2), place, constants)


def test_reading_is_of_parts():
    """A sample group reads each item once, whatever its ranks hold of it."""
    work, place = a_work(stored_bytes=1e6), a_machine()
    half = replace(work, model=2, stored_bytes=5e5)
    parts = replace(work, model_sizes=(2,), of_part={2: half}.__getitem__)
    constants = rates(work, place, copy=0.0)
    one = predict(work, NodeLayout(4, 2, 4), place, constants).reading
    assert predict(parts, NodeLayout(2, 2, 4, 2), place, constants).reading == pytest.approx(one)


def test_a_run_is_described_on_every_size():
    run, shapes = described()
    work = Workload.on(run, shapes, 4)
    assert work.model_sizes == (1, 2, 4)
    half = work.scaled(samples=6).on_model_ranks(2)
    assert (half.samples, half.model) == (6, 2)
    assert half.trained == pytest.approx(work.trained / 2, rel=0.05)
    assert half.stored_bytes == pytest.approx(work.stored_bytes / 2, rel=0.05)
    assert half.counts.sent_of(1) > 0 == work.counts.sent_of(1)


@pytest.mark.parametrize(
    ("ranks", "each", "samples", "model", "message"),
    [
        (8, 4, "node", 8, "parallel.model = 8 is more than the 4 ranks of a node"),
        (8, 4, "node", 3, "parallel.model = 3 does not divide the 4 ranks of a node"),
        (8, 4, "world", 3, "parallel.model = 3 does not divide the 8 ranks"),
        (8, 4, 3, 2, "samples = 3 groups of 2 model ranks does not divide .* 8"),
    ],
)
def test_sizes_that_do_not_divide(ranks, each, samples, model, message):
    nodes = [f"n{r // each}" for r in range(ranks)]
    with pytest.raises(UsageError, match=message):
        check_sizes(ranks, each, samples, model)
    with pytest.raises(UsageError, match=message.replace("a node", "node n0")):
        plan_grid(nodes, samples, model)


def test_grids_of_a_vit_are_those_between_which_augmentation_moves_nothing():
    run, shapes = described(name="vit-cifar10", preset="small")  # 3 heads; crops move rows
    assert parted.sizes(run, shapes, 12) == [1, 3]
    run, shapes = described("augment.crop=0", name="vit-cifar10", preset="small")
    assert parted.sizes(run, shapes, 12) == [1, 2, 3, 4, 6, 12]
    asked, _ = described("parallel.model=2", name="vit-cifar10", preset="small")
    with pytest.raises(UsageError, match=r"augment.crop moves .* axis 1 of x, .* 16:32 of 32"):
        parted.sizes(asked, shapes, 2)
