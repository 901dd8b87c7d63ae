"""A step's time: work counted by hand, waiting by draws, formulas against simulation."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from planning_cases import a_machine, a_work, rates

from hpcsamp.errors import UsageError
from hpcsamp.losses import LOSSES, Shared
from hpcsamp.planning import grid_choice, jitter
from hpcsamp.planning.counts import count
from hpcsamp.planning.model import COMPUTE, NodeLayout, predict
from hpcsamp.planning.simulate import simulate

TWO_SUMS = LOSSES["predictive_nll"].about.exchanges  # of 4·B bytes each


@pytest.mark.parametrize("ranks", [1, 8, 500])
def test_expected_maximum_is_that_of_draws(ranks):
    drawn = jitter.draw(np.random.default_rng(1), 0.05, (4000, ranks))
    assert drawn.mean() == pytest.approx(1, abs=2e-3)
    assert drawn.std() == pytest.approx(0.05, rel=0.03)
    assert drawn.max(axis=1).mean() == pytest.approx(
        jitter.expected_maximum(1.0, 0.05, ranks), abs=4e-3
    )


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
    found = sum(e.bytes(samples=16, batch=32, values=10, ranks=4) for e in about.exchanges)
    assert (found == 0) == (about.kind == "linear")
    assert found <= 4 * 16 * 32 * 10 + 8 * 32  # never more than all outputs


def test_exchanges_of_the_losses():
    found = {name: len(kind.about.exchanges) for name, kind in LOSSES.items()}
    assert found == {
        "expected_nll": 0, "beta_nll": 0, "predictive_nll": 2, "gaussian_mixture_nll": 2,
        "alpha_divergence": 2, "importance_weighted_elbo": 3, "mean_mse": 1,
        "gaussian_moments_nll": 2, "crps": 3, "energy_score": 3,
    }  # fmt: skip


def test_bytes_by_hand():
    assert Shared("centred sums", 12, "BV").bytes(16, 32, 10, 4) == 12 * 32 * 10
    assert Shared("log likelihoods", 8, "S", over_ranks=True).bytes(16, 32, 10, 4) == 8 * 4
    found = [e.bytes(16, 32, 10, 4) for e in LOSSES["importance_weighted_elbo"].about.exchanges]
    assert found == [8, 8, 8 * 4]
    said = {name: kind.about.bytes for name, kind in LOSSES.items()}
    assert said["expected_nll"] == "0"
    assert said["gaussian_moments_nll"] == "12·B·V"
    assert said["energy_score"] == "8·S·B·V/P + 4·B"
    assert said["importance_weighted_elbo"] == "16 + 8·S/P"


def test_a_step_by_hand():
    work = a_work(statistics=TWO_SUMS, views="sample")
    place = a_machine()
    found = predict(work, NodeLayout(4, 2, 4), place, rates(work, place))
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
    plain = predict(work, NodeLayout(4, 1, 4), place, rates(work, place))
    cycled = replace(work, horovod_from=0)
    found = predict(cycled, NodeLayout(4, 1, 4), place, rates(cycled, place))
    busy = sum(plain.phase(n) for n in COMPUTE)
    cycle = math.sqrt(5e-5 * busy)
    extra = found.phase("gradient exchange") - plain.phase("gradient exchange")
    assert extra == pytest.approx(cycle + 5e-5 * busy / cycle)
    one = predict(cycled, NodeLayout(), place, rates(cycled, place))
    assert one.phase("gradient exchange") == 0


def test_sharded_optimisers_and_own_parameters():
    work, place = a_work(trained=10**6), a_machine()
    layout = NodeLayout(4, 2, 4)
    shared = predict(replace(work, sharded=True), layout, place, rates(work, place))
    whole = predict(work, layout, place, rates(work, place))
    assert shared.phase("optimiser") == pytest.approx(whole.phase("optimiser") / 4)
    # four ranks of a node scatter and gather 4 MB; then each sums its quarter with the other node,
    # four at once through two adapters
    expected = 2 * (3 * 1e-6 + 0.75 * 4e6 / 1e11) + 5e-6 + 1e6 * 2 / 1e10
    assert shared.phase("gradient exchange") == pytest.approx(expected)
    # in shares of the weights, S = 16 on four ranks: 4 samples are 4 rounds one by one, 2 in pairs
    across = 5e-6 + 1e6 * 2 / 1e10
    for together, again, exchanges in (1, False, 8), (2, False, 4), (1, True, 12), (0, False, 2):
        of = replace(work, sharded=True, shares=True, together=together, recompute=again)
        found = predict(of, layout, place, rates(of, place))
        in_group = exchanges * (3 * 1e-6 + 0.75 * 4e6 / 1e11)
        assert found.phase("gradient exchange") == pytest.approx(in_group + across)
    own = replace(work, own=True)
    alone = predict(own, NodeLayout(4, 1, 4), place, rates(own, place))
    assert alone.phase("gradient exchange") == 0  # nothing crosses the sample axis
    assert alone.phase("optimiser") == pytest.approx(4 * whole.phase("optimiser"))


def test_reading_is_seen_where_it_takes_longest():
    work = a_work(stored_bytes=1e7)
    place = a_machine()
    found = predict(work, NodeLayout(4, 2, 4), place, rates(work, place, copy=0.0))
    assert found.reading == pytest.approx(32 * 1e7 / 1e9)
    assert found.seconds == pytest.approx(found.reading)
    # without sample groups every rank of a node needs a batch of its own, as large in all
    data = predict(work, NodeLayout(1, 8, 4), place, rates(work, place, copy=0.0))
    assert data.reading == pytest.approx(4 * 8 * 1e7 / 1e9)


@pytest.mark.parametrize("stored", [0.0, 100.0, 1e8], ids=["no feed", "hidden", "read bound"])
@pytest.mark.parametrize(
    "layout", [NodeLayout(4, 2, 4), NodeLayout(3, 5, 4), NodeLayout(8, 1, 4)], ids=str
)
def test_simulation_is_the_formula_without_jitter(layout, stored):
    work = a_work(stored_bytes=stored, batch=60, statistics=TWO_SUMS, views="sample")
    place = a_machine()
    expected = predict(work, layout, place, rates(work, place, copy=1e-11))
    found = simulate(expected, place, steps=20)
    assert found.seconds == pytest.approx(expected.seconds)
    assert (found.starved > 0.1) == (stored == 1e8)


def test_simulation_is_the_formula_with_jitter():
    work = a_work(batch=1000)
    place = a_machine(jitter=0.03)
    expected = predict(work, NodeLayout(4, 250, 4), place, rates(work, place))
    found = simulate(expected, place, steps=200)
    still = predict(work, NodeLayout(4, 250, 4), a_machine(), rates(work, place)).seconds
    assert expected.seconds > 1.05 * still
    assert found.mean == pytest.approx(expected.seconds, rel=0.01)
    assert 0 < found.waiting < 0.25


def test_ten_thousand_ranks():
    work = a_work(batch=40_000)
    place = a_machine(jitter=0.02)
    ranked = grid_choice.splits(work, 10_000, 4, place, rates(work, place))
    assert {s.prediction.layout.ranks for s in ranked} == {10_000}
    found = simulate(ranked[0].prediction, place, steps=50)
    assert found.mean == pytest.approx(ranked[0].prediction.seconds, rel=0.02)
